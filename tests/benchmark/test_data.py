import contextlib
import hashlib
import os
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import data
from benchmark.data import cifar10, cifar100
from benchmark.data._batches import balanced, batches, drawn_epoch, normalise
from benchmark.errors import ShortageError, UserError
from benchmark.training.problem import check_fits, make_problem
from tests.conftest import tiny_run


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write_npz(folder, count=20, classes=10):
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        labels = np.arange(count, dtype=np.int64) % classes
        np.savez(
            folder / f"{split}.npz",
            images=pixels(count),
            labels=labels,
            classes=[f"c{i}" for i in range(classes)],
        )


def write_pickles(root):
    """The official CIFAR-10 folder, with two images per batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    flat = pixels(2).transpose(0, 3, 1, 2).reshape(2, -1)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps({b"data": flat, b"labels": [3, 9]}))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]})
    )
    return folder


def test_digits_are_the_real_ones():
    digits = data.load("digits", "unused")
    assert digits.train_images.shape == (1433, 32, 32, 3)
    assert digits.test_images.shape == (364, 32, 32, 3)
    assert np.bincount(digits.train_labels).min() > 130
    from sklearn.datasets import load_digits

    theirs = load_digits()
    pooled = np.concatenate([digits.train_images, digits.test_images])[:, ::4, ::4, 0].astype(float)
    assert sorted(map(bytes, np.rint(pooled * 16 / 255).astype(np.uint8))) == sorted(
        map(bytes, theirs.images.astype(np.uint8))
    )
    assert len(digits.classes) == len(theirs.target_names)
    assert not digits.augment


def test_the_scoring_set_avoids_the_probe_set_while_it_can(tmp_path):
    def sets(**fields):
        problem = make_problem(tiny_run(train_limit=0, **fields), tmp_path, torch.device("cpu"))
        rows = {tuple(image.flatten().tolist()): i for i, image in enumerate(problem.train.images)}
        found = [
            {rows[tuple(image.flatten().tolist())] for image in part.images}
            for part in (problem.probe, problem.scoring)
        ]
        return problem, *found

    problem, probe, scoring = sets(probe_samples=500, score_samples=600, seed=1)
    assert (len(probe), len(scoring), problem.overlap) == (500, 600, 0)
    assert not probe & scoring
    assert set(torch.bincount(problem.scoring.labels).tolist()) == {60}
    _, same, other = sets(probe_samples=500, score_samples=600, seed=2)
    assert same == probe
    assert other != scoring
    problem, probe, scoring = sets(probe_samples=500, score_samples=1000)
    assert problem.samples == {
        "train": 1433,
        "test": 364,
        "probe": 500,
        "scoring": 1000,
        "overlap": problem.overlap,
    }
    counts, of_probe = torch.bincount(problem.train.labels), torch.bincount(problem.probe.labels)
    assert (
        problem.overlap
        == len(probe & scoring)
        == int((100 - (counts - of_probe)).clamp(min=0).sum())
        > 0
    )
    assert set(torch.bincount(problem.scoring.labels).tolist()) == {100}


def test_npz(tmp_path):
    write_npz(tmp_path / "cifar100", count=200, classes=100)
    images = data.load("cifar100", tmp_path)
    assert images.train_images.shape == (200, 32, 32, 3)
    assert len(images.classes) == 100
    assert images.augment


@pytest.mark.usefixtures("our_sums")
def test_official_pickles(tmp_path):
    write_pickles(tmp_path)
    images = data.load("cifar10", tmp_path)
    assert images.train_images.shape == (10, 32, 32, 3)
    assert images.classes[3] == "c3"
    np.testing.assert_array_equal(images.test_images, pixels(2))


def write_folder(root, size=(32, 32)):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", size, (label * 100, i, 7)).save(root / split / name / f"{i}.png")
    return root


def test_folder(tmp_path):
    images = data.load(f"folder:{write_folder(tmp_path)}", "unused")
    assert images.classes == ("cat", "dog")
    assert images.train_images.shape == (6, 32, 32, 3)
    assert images.train_images[3:, 0, 0].tolist() == [[100, i, 7] for i in range(3)]
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1, 1]


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("name", ["train.npz", "test.npz"])
def test_npz_errors_name_the_file(tmp_path, name):
    write_npz(tmp_path / "cifar10")
    cut_short(tmp_path / "cifar10" / name)
    with pytest.raises(UserError, match=f"{name} is cut short or corrupt"):
        data.load("cifar10", tmp_path)
    (tmp_path / "cifar10" / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing; see docs/data.md"):
        data.load("cifar10", tmp_path)


def zeroed(path):
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(4000) + content[4100:])


@pytest.mark.usefixtures("our_sums")
@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        zeroed,
        lambda path: shutil.copy(path.with_name("data_batch_1"), path),
        lambda path: shutil.copy(path.with_name("test_batch"), path),
    ],
    ids=["cut short", "zeroed", "copy of a batch", "copy of the test set"],
)
def test_a_file_that_is_not_the_published_one_is_named(tmp_path, damage):
    folder = write_pickles(tmp_path)
    for number, name in enumerate(
        [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    ):  # all differ, as in truth
        flat = pixels(2, seed=number).transpose(0, 3, 1, 2).reshape(2, -1)
        (folder / name).write_bytes(pickle.dumps({b"data": flat, b"labels": [3, 9]}))
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    cifar10.RELEASE.sums.update(sums)
    assert data.load("cifar10", tmp_path)
    damage(folder / "data_batch_3")
    with pytest.raises(
        UserError,
        match=r"data_batch_3 is not the published one \(its MD5 sum is \w{32}, not \w{32}\)",
    ):
        data.load("cifar10", tmp_path)


class Command:
    """What unpickles to the result of a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("published", [False, True])
def test_a_pickle_is_not_executed(tmp_path, published, our_sums):
    folder, proof = write_pickles(tmp_path), tmp_path / "executed"
    (folder / "batches.meta").write_bytes(pickle.dumps(Command(proof)))
    said = "batches.meta is not the published one"
    if published:  # even then
        cifar10.RELEASE.sums["batches.meta"] = hashlib.md5(
            (folder / "batches.meta").read_bytes()
        ).hexdigest()
        said = r"batches.meta is cut short or corrupt \(it asks for posix.mkdir\)"
    with pytest.raises(UserError, match=said):
        data.load("cifar10", tmp_path)
    assert not proof.exists()


def test_the_published_sums_are_those_of_torchvision():
    from torchvision.datasets import CIFAR10, CIFAR100

    for release, theirs in ((cifar10.RELEASE, CIFAR10), (cifar100.RELEASE, CIFAR100)):
        rows = [
            *theirs.train_list,
            *theirs.test_list,
            (theirs.meta["filename"], theirs.meta["md5"]),
        ]
        assert dict(map(tuple, rows)) == release.sums


def test_an_npz_of_other_keys_is_told_so(tmp_path):
    write_npz(tmp_path / "cifar10")
    np.savez(tmp_path / "cifar10" / "test.npz", x=pixels(2), y=np.array([1, 2]))
    said = r"test.npz: keys must be images and labels and classes, got \['x', 'y'\]"
    with pytest.raises(UserError, match=said):
        data.load("cifar10", tmp_path)


def test_what_cannot_be_read_or_held_is_not_called_broken(tmp_path, monkeypatch):
    write_npz(tmp_path / "cifar10")
    write_folder(tmp_path / "images")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("benchmark.data._cifar.read_npz", forbidden)
        patch.setattr(Image, "open", forbidden)
        for dataset in ("cifar10", f"folder:{tmp_path / 'images'}"):
            with pytest.raises(ShortageError, match=r"cannot be read \(Permission denied\)$"):
                data.load(dataset, tmp_path)

    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr("benchmark.data._cifar.read_npz", exhausted)
    with pytest.raises(MemoryError):
        data.load("cifar10", tmp_path)


def test_a_net_that_memory_is_too_small_for_is_not_called_unfit(tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
            "bytes"
        )

    monkeypatch.setattr("benchmark.training.problem.build", lambda *_: exhausted)
    with pytest.raises(RuntimeError, match="allocate memory"):
        check_fits("vgg13", 0.5, 10, (32, 32), 2)


def test_a_missing_set_that_cannot_be_downloaded(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    with pytest.raises(
        UserError, match=r"cifar10 is not in the data folder .* cannot be downloaded \(no network\)"
    ):
        data.load("cifar10", tmp_path)


@pytest.mark.usefixtures("our_sums")
def test_a_set_that_another_process_unpacks_is_waited_for(tmp_path, monkeypatch):
    begun, calls = threading.Event(), []

    def download(root, **_):
        calls.append(root)
        (root / "cifar-10-batches-py").mkdir()
        begun.set()
        time.sleep(0.3)  # a reader that does not wait finds half a set
        (root / "cifar-10-batches-py").rmdir()
        write_pickles(root)

    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(data.load, "cifar10", tmp_path / "data")
        begun.wait()
        second = data.load("cifar10", tmp_path / "data")
        assert np.array_equal(first.result().train_images, second.train_images)
    assert len(calls) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cifar-10-batches-py"]


@pytest.mark.usefixtures("our_sums")
def test_an_interrupted_download_is_made_up_for(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"

    def interrupted(root, **_):
        write_pickles(root)
        (folder / "test_batch").unlink()
        raise KeyboardInterrupt

    def whole(root, **_):
        shutil.rmtree(folder)
        write_pickles(root)

    monkeypatch.setattr("torchvision.datasets.CIFAR10", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load("cifar10", tmp_path)
    assert folder.is_dir()
    monkeypatch.setattr("torchvision.datasets.CIFAR10", whole)
    assert len(data.load("cifar10", tmp_path).train_images) == 10


@pytest.mark.usefixtures("our_sums")
def test_a_data_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    """A whole set in it is read; of one that is not whole it is said what is missing."""

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    folder = write_pickles(tmp_path)
    (tmp_path / ".cifar10.lock").touch()
    monkeypatch.setattr("benchmark.data._cifar.held", forbidden)
    assert len(data.load("cifar10", tmp_path).train_images) == 10
    (folder / "test_batch").unlink()
    said = (
        r"not in the data folder .* \(cifar-10-batches-py/test_batch is missing\), "
        r"which cannot be written to"
    )
    with pytest.raises(UserError, match=said):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("form", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_eight_bits_are_refused(tmp_path, form):
    root = write_folder(tmp_path / "images")
    wide = np.random.default_rng(0).integers(0, 65535, (32, 32)).astype(form)
    Image.fromarray(wide).save(root / "train" / "dog" / "0.tiff")
    (root / "train" / "dog" / "0.tiff").rename(root / "train" / "dog" / "0.png")
    with pytest.raises(
        UserError, match=r"0.png must be an image of 8 bits per channel, got '(I|F)"
    ):
        data.load(f"folder:{root}", "unused")


def test_a_path_is_for_data_sets_that_take_one():
    with pytest.raises(
        UserError, match="dataset must be digits, which takes no path, got 'digits:foo'"
    ):
        data.load("digits:foo", "unused")
    with pytest.raises(UserError, match="dataset folder:~nosuchuser/x is no path"):
        data.load("folder:~nosuchuser/x", "unused")


def test_a_folder_means_what_is_there(tmp_path):
    root = write_folder(tmp_path / "images")
    clean = data.load(f"folder:{root}", "unused")
    (root / "train" / "cat" / "._0.png").write_bytes(b"no image")
    (root / "train" / ".DS_Store").touch()
    for name in (".git", "__MACOSX"):
        (root / "train" / name).mkdir()
    ours = data.load(f"folder:{root}", "unused")
    assert ours.classes == clean.classes
    assert np.array_equal(ours.train_images, clean.train_images)
    (root / "train" / "dog" / "more").mkdir()
    (root / "train" / "cat" / "9.tif").touch()
    (root / "test" / "notes.txt").touch()
    said = (
        r"images has 3 files or folders that cannot be read, first .*train/cat/9.tif; the layout is"
    )
    with pytest.raises(UserError, match=said):
        data.load(f"folder:{root}", "unused")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_images_is_an_error(tmp_path, split):
    root = write_folder(tmp_path / "images")
    for image in (root / split / "dog").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=f"images/{split} has no images of class 'dog'"):
        data.load(f"folder:{root}", "unused")


def test_folder_errors(tmp_path):
    with pytest.raises(UserError, match=r"data folder .*nowhere/train is missing"):
        data.load(f"folder:{tmp_path}/nowhere", "unused")
    root = write_folder(tmp_path / "images")
    Image.new("RGB", (16, 16)).save(root / "train" / "dog" / "9.png")
    with pytest.raises(
        UserError, match=r"must all have one size: .*0.png has 32x32, .*9.png 16x16"
    ):
        data.load(f"folder:{root}", "unused")
    (root / "train" / "dog" / "9.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"9.png is cut short or not an image"):
        data.load(f"folder:{root}", "unused")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arch": "vgg13"}, "vgg13 cannot be trained on images of 16x16 in a batch of 2"),
        (
            {"arch": "mobilenet_v1", "batch_size": 5},
            "mobilenet_v1 cannot be trained on images of 16x16 in a batch of 1",
        ),
        ({"arch": "mobilenet_v1", "batch_size": 4}, None),
        ({"arch": "resnet20", "batch_size": 5}, None),
    ],
)
def test_images_that_a_net_cannot_be_trained_on(tmp_path, fields, said):
    dataset = f"folder:{write_folder(tmp_path / 'images', (16, 16))}"  # six images
    config = tiny_run(dataset=dataset, train_limit=0, score_samples=4, probe_samples=4, **fields)
    with pytest.raises(UserError, match=said) if said else contextlib.nullcontext():
        make_problem(config, tmp_path, torch.device("cpu"))


def test_labels_must_fit(tmp_path):
    write_npz(tmp_path / "cifar10", classes=10)
    np.savez(
        tmp_path / "cifar10" / "test.npz",
        images=pixels(2),
        labels=np.array([1, 10]),
        classes=["a"] * 10,
    )
    with pytest.raises(
        UserError, match=r"cifar10 \(test\): labels must be from 0 to 9, got 1 to 10"
    ):
        data.load("cifar10", tmp_path)


def test_normalise_equals_torchvision():
    from torchvision.transforms import Compose, Normalize, ToTensor

    images = torch.from_numpy(pixels(4))
    theirs = Compose([ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)])
    expected = torch.stack([theirs(image.numpy()) for image in images])
    assert torch.equal(normalise(images), expected)
    assert normalise(images).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalise(images, torch.float64), expected.double())


def test_balanced_subsets():
    labels = torch.arange(1000) % 7
    chosen = balanced(labels, 100, seed=1)
    assert len(set(chosen.tolist())) == 100
    assert labels[chosen].bincount().tolist() == pytest.approx([100 / 7] * 7, abs=1)
    assert torch.equal(chosen, balanced(labels, 100, seed=1))
    assert not torch.equal(chosen, balanced(labels, 100, seed=2))
    assert sorted(balanced(labels, 5000, seed=1).tolist()) == list(range(1000))


def epoch(images, labels, **arguments):
    return list(batches(drawn_epoch(images, labels, **arguments), 8))


def test_an_epoch_shows_every_image_once():
    images, labels = torch.from_numpy(pixels(20)), torch.arange(20)
    seen = epoch(images, labels, order_seed=1, augment_seed=None)
    assert [len(y) for _, y in seen] == [8, 8, 4]
    assert sorted(torch.cat([y for _, y in seen]).tolist()) == list(range(20))
    for x, y in seen:
        assert torch.equal(x, normalise(images[y]))


def test_crops_and_flips_are_those_of_the_padded_image():
    images, labels = torch.from_numpy(pixels(20)), torch.arange(20)
    padded = torch.nn.functional.pad(images, (0, 0, 4, 4, 4, 4))
    flips = 0
    for x, y in epoch(images, labels, order_seed=1, augment_seed=2):
        for image, label in zip(x, y, strict=True):
            crops = [
                padded[label, t : t + 32, left : left + 32] for t in range(9) for left in range(9)
            ]
            plain = any(torch.equal(image, normalise(crop[None])[0]) for crop in crops)
            flipped = any(torch.equal(image, normalise(crop.flip(1)[None])[0]) for crop in crops)
            assert plain or flipped
            flips += flipped and not plain
    assert 3 < flips < 17


def test_an_epoch_has_the_numbers_of_indices_drawn_in_full():
    """The draws are those of flowprune 0.1, which sent rows and columns of all images."""
    images, labels = torch.from_numpy(pixels(10)), torch.arange(10)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(6)
    top, left = (torch.randint(0, 9, (10, 1), generator=draw) for _ in range(2))
    flip = torch.rand(10, 1, generator=draw) < 0.5
    rows = top + torch.arange(32)
    columns = left + torch.where(flip, torch.arange(31, -1, -1), torch.arange(32))
    padded = torch.nn.functional.pad(images[order], (0, 0, 4, 4, 4, 4))
    expected = padded[torch.arange(10)[:, None, None], rows[:, :, None], columns[:, None, :]]
    drawn = drawn_epoch(images, labels, order_seed=5, augment_seed=6)
    seen = list(batches(drawn, 4))
    assert torch.equal(torch.cat([x for x, _ in seen]), normalise(expected))
    assert torch.equal(torch.cat([y for _, y in seen]), labels[order])
    x, y = drawn.batch(torch.tensor([7, 2]))
    assert torch.equal(x, normalise(expected[[7, 2]]))
    assert torch.equal(y, labels[order][[7, 2]])


def test_order_and_augmentation_follow_their_own_seeds():
    images, labels = torch.from_numpy(pixels(20)), torch.arange(20)
    a, b, c = (
        epoch(images, labels, order_seed=o, augment_seed=s) for o, s in ((1, 1), (1, 2), (2, 1))
    )
    assert torch.equal(a[0][1], b[0][1])
    assert not torch.equal(a[0][0], b[0][0])
    assert not torch.equal(a[0][1], c[0][1])
