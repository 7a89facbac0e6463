"""`tfds:NAME`: copies prepared by the library's own builder and ArrayRecord writer, read back without TensorFlow."""

import io
import json
import shutil

import numpy as np
import pytest

from fastmlp.datasets import load_dataset
from fastmlp.datasets import tfds as reader

tfds = pytest.importorskip("tensorflow_datasets")
Image = pytest.importorskip("PIL.Image")


def png(pixels):
    """Encode with Pillow: arrays the library would encode with TensorFlow, bytes it takes as they are."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    file.seek(0)
    return file


def make_builder(folder, dataset, version, features, splits, keys=("image", "label")):
    """Return a builder that writes ``{split: (samples, labels)}``, in this order, under `folder`."""

    def generate(X, y):
        for i, (x, label) in enumerate(zip(X, y, strict=True)):
            yield i, dict(zip(features, (png(x) if x.ndim > 1 else x, label), strict=True))

    class Copy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=keys,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: generate(X, y) for split, (X, y) in splits.items()}

        def _generate_examples(self):
            """Give nothing: the splits above bring their generators along."""
            return iter(())

    return Copy(data_dir=folder)


def prepare(folder, *args, **options):
    make_builder(folder, *args, **options).download_and_prepare(file_format="array_record")
    return folder


def digits(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n)


def digit_features():
    return {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}


def prepare_kmnist(folder, seed=0):
    return prepare(
        folder, "kmnist", "3.0.1", digit_features(), {"train": digits(30, seed), "test": digits(20, seed + 1)}
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep the cache of the person who runs the tests out of them."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *args, **options: tmp_path / "cache")
    return tmp_path / "cache" / "tfds"


@pytest.fixture(scope="module")
def kmnist(tmp_path_factory):
    return prepare_kmnist(tmp_path_factory.mktemp("prepared"))


def count_decodings(monkeypatch):
    calls, decode = [], reader._decode
    monkeypatch.setattr(reader, "_decode", lambda *args: calls.append(args) or decode(*args))
    return calls


def fails(error, pattern, name, **options):
    with pytest.raises(error, match=pattern) as caught:
        load_dataset(name, **options)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_mnist_comes_back_byte_for_byte(tmp_path, cache, monkeypatch):
    shipped = load_dataset("mnist", raw=True)
    splits = {
        "train": (shipped.X_train.reshape(-1, 28, 28), shipped.y_train),
        "test": (shipped.X_test.reshape(-1, 28, 28), shipped.y_test),
    }
    prepare(tmp_path / "prepared", "mnist", "3.0.1", digit_features(), splits)
    decoded = load_dataset("tfds:mnist", raw=True, data_dir=tmp_path / "prepared")
    monkeypatch.setattr(reader, "_decode", None)  # from here on only the cache can answer
    cached = load_dataset("tfds:mnist:3.0.1", raw=True, data_dir=tmp_path / "prepared")
    for data in (decoded, cached):
        for name in ("X_train", "y_train", "X_test", "y_test"):
            ours, theirs = getattr(data, name), getattr(shipped, name)
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            assert ours.tobytes() == theirs.tobytes()
        assert data.class_names == shipped.class_names
        assert (data.input_scale, data.image_shape) == (shipped.input_scale, shipped.image_shape)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]  # and no temporary file left


def test_class_names_and_scale_are_those_of_the_catalogue(kmnist):
    data = load_dataset("tfds:kmnist", data_dir=kmnist)
    assert data.name == "tfds:kmnist"
    assert data.class_names == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    np.testing.assert_allclose(data.X_test, digits(20, 1)[0].reshape(20, 784) / 255, rtol=1e-6)
    assert data.y_test.tolist() == digits(20, 1)[1].tolist()


def test_damaged_cache_is_made_anew(kmnist, cache, monkeypatch):
    calls = count_decodings(monkeypatch)
    first = load_dataset("tfds:kmnist", data_dir=kmnist)
    load_dataset("tfds:kmnist", data_dir=kmnist)
    assert len(calls) == 1
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for n, damaged in enumerate((b"", b"junk", whole[: len(whole) // 2], bytes(len(whole))), start=2):
        path.write_bytes(damaged)
        assert load_dataset("tfds:kmnist", data_dir=kmnist).X_train.tolist() == first.X_train.tolist()
        assert len(calls) == n
    assert path.read_bytes()[:2] == b"PK"


def test_unwritable_cache_does_not_matter(kmnist, cache, monkeypatch):
    calls = count_decodings(monkeypatch)
    cache.parent.write_text("a file where the folder should be")
    for n in (1, 2):
        assert load_dataset("tfds:kmnist", data_dir=kmnist).X_train.shape == (30, 784)
        assert len(calls) == n


def test_another_copy_is_another_cache(tmp_path, kmnist):
    mine = prepare_kmnist(tmp_path / "mine", seed=7)
    theirs = load_dataset("tfds:kmnist", raw=True, data_dir=kmnist)
    assert load_dataset("tfds:kmnist", raw=True, data_dir=mine).X_train.tolist() != theirs.X_train.tolist()
    shutil.rmtree(mine)
    prepare_kmnist(mine, seed=8)  # prepared anew in the same place
    assert (
        load_dataset("tfds:kmnist", raw=True, data_dir=mine).X_train.tolist()
        == digits(30, 8)[0].reshape(30, 784).tolist()
    )


def test_table_of_ones_own_with_one_split(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)).astype(np.float32), rng.choice(["left", "right"], 40)
    features = {"position": tfds.features.Tensor(shape=(3,), dtype=np.float32), "side": tfds.features.Text()}
    prepare(tmp_path, "sides", "1.0.0", features, {"train": (X, y)}, keys=None)
    data = load_dataset("tfds:sides", target="side", data_dir=tmp_path, test_fraction=0.25)
    assert (data.X_train.shape, data.X_test.shape) == ((30, 3), (10, 3))
    assert data.class_names == ("left", "right")
    found = {tuple(x): data.class_names[k] for x, k in zip(data.X_train.tolist(), data.y_train, strict=True)}
    expected = {tuple(x): side for x, side in zip(X.tolist(), y.tolist(), strict=True)}
    assert found.items() <= expected.items()
    fails(ValueError, "must declare one input and one label, got features", "tfds:sides", data_dir=tmp_path)
    fails(ValueError, "'position'", "tfds:sides", target="sid", data_dir=tmp_path)


def test_missing_copy_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "find_spec", lambda name: None)
    pattern = "must lie in .*mnist.3.0.1: pip install tensorflow, which prepares it, or point --data-dir"
    fails(FileNotFoundError, pattern, "tfds:mnist", data_dir=tmp_path)


def test_copy_is_prepared_where_tensorflow_is_there(tmp_path, monkeypatch):
    """The builder here yields PNG bytes, so the branch runs without TensorFlow once that is said to be installed."""
    monkeypatch.setattr(reader, "find_spec", lambda name: name == "tensorflow")
    builder = make_builder(
        tmp_path, "kmnist", "3.0.1", digit_features(), {"train": digits(30, 0), "test": digits(20, 1)}
    )
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    data = load_dataset("tfds:kmnist", raw=True, data_dir=tmp_path)
    assert data.X_train.tolist() == digits(30, 0)[0].reshape(30, 784).tolist()
    assert builder.is_prepared()


def test_copy_that_cannot_be_prepared(tmp_path, monkeypatch):
    def offline(**options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(reader, "find_spec", lambda name: name == "tensorflow")
    builder = make_builder(tmp_path, "kmnist", "3.0.1", digit_features(), {})
    monkeypatch.setattr(builder, "download_and_prepare", offline)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    fails(
        ValueError, "preparing it failed, or point --data-dir .*: no route to host$", "tfds:kmnist", data_dir=tmp_path
    )


def test_copy_in_a_format_that_needs_tensorflow(tmp_path, kmnist):
    shutil.copytree(kmnist, tmp_path / "copy")
    info = tmp_path / "copy" / "kmnist" / "3.0.1" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    pattern = "got tfrecord: run 'tfds build kmnist --file_format=array_record'"
    fails(ValueError, pattern, "tfds:kmnist", data_dir=tmp_path / "copy")


def test_damaged_copy(tmp_path, kmnist):
    shutil.copytree(kmnist, tmp_path / "copy")
    for path in (tmp_path / "copy" / "kmnist" / "3.0.1").glob("*train.array_record*"):
        path.write_bytes(path.read_bytes()[:100])
    fails(ValueError, "'tfds:kmnist' in .* cannot be read", "tfds:kmnist", data_dir=tmp_path / "copy")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("fashion_mnits", "catalogue of tensorflow-datasets, got 'tfds:fashion_mnits' .did you mean 'fashion_mnist'"),
        ("kmnist:9.9.9", "cannot be opened: .*9.9.9"),
        ("kmnist/large", "cannot be opened: .*large"),
        ("", "got 'tfds:'|cannot be opened"),
    ],
)
def test_unknown_name(kmnist, name, pattern):
    fails(ValueError, pattern, f"tfds:{name}", data_dir=kmnist)


def test_target_has_to_be_a_feature(kmnist):
    fails(
        ValueError,
        "target must name a label .* got 'labl' .did you mean 'label'",
        "tfds:kmnist",
        target="labl",
        data_dir=kmnist,
    )


def test_missing_part_of_the_extra_is_named(kmnist, monkeypatch):
    def broken(*args, **options):
        raise ModuleNotFoundError("No module named 'importlib_resources'", name="importlib_resources")

    monkeypatch.setattr(tfds, "builder", broken)
    pattern = r"needs the package 'importlib_resources': pip install 'fastmlp\[tfds\]'"
    fails(ModuleNotFoundError, pattern, "tfds:kmnist", data_dir=kmnist)
