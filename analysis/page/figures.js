// A claim shows its figures for one architecture and data set; the pictures are those of the section Figures.
(() => {
  const source = (anchor) => document.querySelector(`#${CSS.escape(anchor)} img`);

  for (const card of document.querySelectorAll("[data-claim-figures]")) {
    const choice = card.querySelector("select");
    const pictures = [...card.querySelectorAll("a[data-group]")];
    for (const link of pictures) {
      const original = source(link.getAttribute("href").slice(1));
      link.replaceChildren(Object.assign(new Image(), { src: original.src, alt: original.alt, loading: "lazy" }));
      link.className = "plot";
    }
    const show = () => {
      for (const link of pictures) link.hidden = choice !== null && link.dataset.group !== choice.value;
    };
    choice?.addEventListener("change", show);
    choice?.closest("label").removeAttribute("hidden");
    show();
  }
})();
