// A claim shows its figures for one architecture and data set; the pictures are those of the section Figures.
(() => {
  for (const area of document.querySelectorAll("[data-claim-figures]")) {
    const choice = area.querySelector("select");
    const figures = [...area.querySelectorAll("figure")];
    for (const figure of figures) {
      const anchor = figure.querySelector("a").getAttribute("href").slice(1);
      const { src, alt } = document.getElementById(anchor).querySelector("img");
      const plot = Object.assign(document.createElement("div"), { className: "plot", tabIndex: 0, role: "region", ariaLabel: alt });
      plot.append(Object.assign(new Image(), { src, alt }));
      figure.prepend(plot);
    }
    const show = () => {
      for (const figure of figures) figure.hidden = choice !== null && figure.dataset.group !== choice.value;
    };
    choice?.addEventListener("change", show);
    choice?.closest("label").removeAttribute("hidden");
    show();
  }
})();
