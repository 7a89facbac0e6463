"""load_dataset: .npz, .csv and .parquet, and what bad input gets told. See test_idx.py for the shipped digits."""

import sys

import numpy as np
import pytest
from loading import load_fails

from fastmlp.datasets import load_dataset

IMAGES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3) * 8
LABELS = [3, 0, 1, 2, 1]


# .npz


@pytest.mark.parametrize("x", ["X", "x"])
def test_npz_with_a_test_set(tmp_path, x):
    arrays = {f"{x}_train": IMAGES, "y_train": np.uint8(LABELS), f"{x}_test": IMAGES[:2], "y_test": np.uint8([9, 2])}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load_dataset(tmp_path / "a.npz", raw=True)
    assert data.X_train.tolist() == IMAGES.reshape(5, 6).tolist()
    assert data.X_train.dtype == np.uint8
    assert data.image_shape == (2, 3)
    # Classes are the labels of both sets, in order.
    assert data.class_names == ("0", "1", "2", "3", "9")
    assert data.y_train.tolist() == [3, 0, 1, 2, 1]
    assert data.y_test.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("y", "names", "codes"),
    [
        (["b", "a", "c", "a"], ("a", "b", "c"), [1, 0, 2, 0]),
        ([7, -1, 7, 30], ("-1", "7", "30"), [1, 0, 1, 2]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        ([b"yes", b"no", b"no", b"no"], ("no", "yes"), [1, 0, 0, 0]),
        ([[4], [2], [2], [4]], ("2", "4"), [1, 0, 0, 1]),
    ],
)
def test_npz_labels_are_encoded(tmp_path, y, names, codes):
    np.savez_compressed(tmp_path / "a.npz", X=np.arange(4.0)[:, None], label=np.array(y))
    data = load_dataset(tmp_path / "a.npz", target="label", test_fraction=0.25)
    assert data.class_names == names
    assert data.y_train.dtype == np.int64
    rows = np.concatenate([data.X_train, data.X_test])[:, 0].astype(int)
    assert np.concatenate([data.y_train, data.y_test]).tolist() == [codes[row] for row in rows]
    assert sorted(rows) == [0, 1, 2, 3]
    assert data.input_scale == 1.0
    assert data.image_shape is None


def test_npz_float_labels_are_a_regression(tmp_path):
    y = np.linspace(0, 1, 10)
    np.savez(tmp_path / "a.npz", X=y[:, None] * 2, y=y)
    data = load_dataset(tmp_path / "a.npz", raw=True)
    assert data.class_names is None
    assert (data.X_train.dtype, data.y_train.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(data.X_train[:, 0], 2 * data.y_train)


def test_colour_images_keep_their_shape(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((4, 5, 6, 3), np.uint8), y=[0, 1, 0, 1])
    assert load_dataset(tmp_path / "a.npz").image_shape == (5, 6, 3)
    np.savez(tmp_path / "b.npz", X=np.zeros((4, 5, 6, 1), np.uint8), y=[0, 1, 0, 1])
    assert load_dataset(tmp_path / "b.npz").image_shape == (5, 6)


def test_split_is_seeded_and_loses_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.arange(50)[:, None], y=np.arange(50) % 3)
    one, same, other = (load_dataset(tmp_path / "a.npz", test_fraction=0.3, seed=seed) for seed in (1, 1, 2))
    assert (len(one.X_train), len(one.X_test)) == (35, 15)
    assert sorted(np.concatenate([one.X_train, one.X_test])[:, 0]) == list(range(50))
    assert one.X_test.tolist() == same.X_test.tolist()
    assert one.X_test.tolist() != other.X_test.tolist()
    for X, y in ((one.X_train, one.y_train), (one.X_test, one.y_test)):
        assert y.tolist() == (X[:, 0] % 3).tolist()


X4 = np.zeros((4, 2))
Y4 = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "options", "pattern"),
    [
        ({"X": X4, "y": np.array([0, "a", None, 1], object)}, {}, "without object arrays, got: Object arrays"),
        ({"X": X4, "y": Y4}, {"target": "label"}, "must hold an array 'label', got X, y"),
        ({"X": X4, "labels": Y4}, {"target": "label"}, "did you mean 'labels'"),
        ({"X_train": X4, "y_train": Y4, "X_test": X4}, {}, "must hold an array 'y_test', got X_test, X_train, y_train"),
        ({"X_train": X4, "y_train": Y4, "X_test": X4, "y_test": Y4}, {"target": "y"}, "target must be None .* got 'y'"),
        ({"X": X4, "y": Y4[:3]}, {}, "label a sample, got 3 labels, 4 samples"),
        ({"X": X4, "y": np.eye(4)}, {}, r"labels 'y' must be one number or name a sample, got the shape \(4, 4\)"),
        ({"X": X4[:0], "y": Y4[:0]}, {}, r"data set of .* must have samples with features, got the shape \(0, 2\)"),
        ({"X": X4[:1], "y": Y4[:1]}, {}, "must have rows left for training, got 1 rows"),
        ({"X": np.float32(3), "y": Y4}, {}, "X in .* must have one entry a sample"),
        ({"X": np.full((4, 2), "a"), "y": Y4}, {}, "must be numeric, got dtype <U1"),
        ({"X": np.array([[0, 1], [2, np.nan]]), "y": Y4[:2]}, {}, "feature 2 .* got nan in row 2"),
        ({"X": np.array([[0, 1], [1e39, 0]]), "y": Y4[:2]}, {}, "feature 1 .* finite in float32, got inf in row 2"),
        ({"X": X4, "y": np.array([0.5, 1, np.inf, 2])}, {}, "labels 'y' must be finite in float32, got inf in row 3"),
        (
            {"X": X4, "y": np.array([0.5, -1e39, 1, 2])},
            {},
            r"labels 'y' must be finite in float32, got -1e\+39 in row 2",
        ),
        ({"X": np.zeros((50, 1)), "y": np.arange(50)}, {}, "recur, got 50 different ones in 50 rows .*as_values=True"),
        (
            {"X_train": X4, "y_train": Y4, "X_test": X4[:, :1], "y_test": Y4},
            {},
            r"shape \(2,\) of the others, got \(1,",
        ),
        ({"X_train": X4, "y_train": Y4, "X_test": X4, "y_test": Y4.astype(str)}, {}, "of one kind, got int64 and <U21"),
        ({"X_train": X4, "y_train": Y4, "X_test": X4 * np.nan, "y_test": Y4}, {}, "feature 1 .* got nan in test row 1"),
        ({"X": X4, "y": Y4.astype(complex)}, {}, "numbers or strings, got dtype complex128"),
    ],
)
def test_npz_bad(tmp_path, arrays, options, pattern):
    np.savez(tmp_path / "bad.npz", **arrays)
    load_fails(ValueError, pattern, tmp_path / "bad.npz", **options)


def test_npz_damaged(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", X=np.random.default_rng(0).random((50, 50)), y=np.arange(50) % 2)
    stored = (tmp_path / "whole.npz").read_bytes()
    flipped = bytearray(stored)
    flipped[len(stored) // 2] ^= 0xFF
    path = tmp_path / "bad.npz"
    for content in (b"", b"PK", b"no zip at all", stored[: len(stored) // 2], bytes(flipped)):
        path.write_bytes(content)
        load_fails(ValueError, "bad.npz must be a sound .npz file", path)
    with path.open("wb") as file:
        np.save(file, X4)
    load_fails(ValueError, "must be a sound .npz file .* not a zip file", path)


# .csv

CSV = 'size,"weight, kg",kind\n1,0.1,cat\n2,-5e-1,dog\n3, 7 ,"cat"\n\n4,1e3,eel\n'


def together(data):
    """Return all rows in the order of their first column, with their labels."""
    X, y = np.concatenate([data.X_train, data.X_test]), np.concatenate([data.y_train, data.y_test])
    order = np.argsort(X[:, 0])
    return X[order], y[order]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        CSV.replace("\n", "\r\n"),
        "\ufeff" + CSV,
        CSV.replace('"weight, kg"', "weight").replace(",", ";"),
        CSV.replace('"weight, kg"', "weight").replace(",", "\t"),
    ],
    ids=["plain", "crlf", "byte order mark", "semicolons", "tabs"],
)
def test_csv(tmp_path, text):
    data = load_dataset(write(tmp_path / "pets.csv", text), target="kind", test_fraction=0.25)
    X, y = together(data)
    np.testing.assert_array_equal(X, np.float32([[1, 0.1], [2, -0.5], [3, 7], [4, 1000]]))
    assert data.class_names == ("cat", "dog", "eel")
    assert data.feature_names == ("size", "weight, kg" if '"weight, kg"' in text else "weight")
    assert y.tolist() == [0, 1, 0, 2]
    assert (len(data.X_train), len(data.X_test)) == (3, 1)


@pytest.mark.parametrize("column", ["whole", "real", "word", "truth"])
def test_csv_reads_what_pandas_wrote(tmp_path, column):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(5)
    labels = {
        "whole": rng.integers(-2, 3, 40),
        "real": rng.normal(size=40),
        "word": rng.choice(["ä, ö", 'say "hi"', "plain"], 40),
        "truth": rng.random(40) < 0.5,
    }
    features = {"first": np.arange(40), "second": rng.normal(size=40), "third": rng.normal(size=40) * 1e-30}
    frame = pandas.DataFrame({"first": features.pop("first"), column: labels[column], **features})
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = load_dataset(tmp_path / "t.csv", target=column)
    X, y = together(data)
    np.testing.assert_allclose(X, frame.drop(columns=column).to_numpy(np.float32), rtol=1e-6)
    if column == "real":
        assert data.class_names is None
        np.testing.assert_allclose(y, labels["real"], rtol=1e-6)
    else:
        assert [data.class_names[code] for code in y] == [str(label) for label in labels[column]]
        assert list(data.class_names) == [str(label) for label in sorted(set(labels[column].tolist()))]


def test_csv_labels_with_zeros_in_front_are_words(tmp_path):
    rows = "".join(f"{i},{y}\n" for i, y in enumerate(["007", "7", "0", "+7", "-01"] * 5))
    data = load_dataset(write(tmp_path / "a.csv", "a,y\n" + rows), target="y")
    assert data.class_names == ("+7", "-01", "0", "007", "7")
    rows = "".join(f"{i},{y}\n" for i, y in enumerate(["01", "2.5", "1e3"] * 5))
    assert load_dataset(write(tmp_path / "a.csv", "a,y\n" + rows), target="y").class_names is None


@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
def test_integers_may_be_values(tmp_path, suffix):
    path, counts = tmp_path / f"counts.{suffix}", np.arange(100) % 37
    if suffix == "npz":
        np.savez(path, X=np.ones((100, 1)), y=counts)
    elif suffix == "csv":
        write(path, "a,y\n" + "".join(f"1,{y:03}\n" for y in counts))
    else:
        pytest.importorskip("pandas").DataFrame({"a": np.ones(100), "y": counts}).to_parquet(path)
    data = load_dataset(path, target="y", as_values=True)
    assert data.class_names is None
    assert data.y_train.dtype == np.float32
    assert sorted(np.concatenate([data.y_train, data.y_test])) == sorted(counts)


@pytest.mark.parametrize("suffix", ["csv", "npz", "parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_keep_the_digits_of_the_dtype(tmp_path, suffix, dtype):
    path, times = tmp_path / f"late.{suffix}", 1.7e9 + np.arange(10) / 8
    if suffix == "npz":
        np.savez(path, X=times[:, None], y=-times)
    elif suffix == "csv":
        write(path, "a,y\n" + "".join(f"{t},{-t}\n" for t in times))
    else:
        pytest.importorskip("pandas").DataFrame({"a": times, "y": -times}).to_parquet(path)
    data = load_dataset(path, target="y", dtype=dtype)
    assert {part.dtype for part in (data.X_train, data.y_train, data.X_test, data.y_test)} == {np.dtype(dtype)}
    X, y = (np.concatenate(parts).ravel() for parts in ((data.X_train, data.X_test), (data.y_train, data.y_test)))
    np.testing.assert_array_equal(X, -y)
    np.testing.assert_array_equal(np.sort(X), times.astype(dtype))


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_whole_numbers_may_be_classes(tmp_path, suffix):
    """As pandas writes integers of a column in which one was missing."""
    for labels, names in (([0.0, 1.0, 3.0, 1.0], ("0", "1", "3")), ([0.0, 0.5, 1.0, 1.0], None)):
        path = tmp_path / f"a.{suffix}"
        if suffix == "npz":
            np.savez(path, X=np.arange(4.0)[:, None], y=np.array(labels))
        else:
            write(path, "a,y\n" + "".join(f"{k},{y}\n" for k, y in enumerate(labels)))
        data = load_dataset(path, target="y", as_classes=True)
        assert data.class_names == names
        assert data.y_train.dtype == (np.float32 if names is None else np.int64)
        assert load_dataset(path, target="y").class_names is None
    load_fails(ValueError, "must not both be True", path, target="y", as_classes=True, as_values=True)


def test_columns_of_truth_values_in_a_csv(tmp_path):
    path = write(tmp_path / "a.csv", "a,smoker,y\n1.5,True,u\n2,False,v\n3, TRUE,u\n4,false,v\n")
    X, _ = together(load_dataset(path, target="y"))
    assert X.tolist() == [[1.5, 1], [2, 0], [3, 1], [4, 0]]
    load_fails(
        ValueError,
        "column 'smoker' must be numeric, got 'yes' in row 2",
        write(path, "a,smoker,y\n1,True,u\n2,yes,v\n"),
        target="y",
    )
    load_fails(
        ValueError, "must have a label in every row", write(path, "a,smoker,y\n1,True,u\n2,False,\n"), target="y"
    )


def test_pixels_in_float64(tmp_path):
    """They are the numbers that a network of float64 makes of the bytes."""
    np.savez(tmp_path / "a.npz", X=IMAGES, y=LABELS)
    data, raw = (load_dataset(tmp_path / "a.npz", raw=raw, dtype=np.float64) for raw in (False, True))
    assert (data.X_train.dtype, raw.X_train.dtype) == (np.float64, np.uint8)
    np.testing.assert_array_equal(data.X_train, raw.X_train * raw.input_scale)


def test_what_float32_cannot_hold(tmp_path):
    path = write(tmp_path / "a.csv", "a,y\n1e300,0\n1,1\n1,0\n")
    load_fails(ValueError, "column 'a' of .* must be finite in float32, got inf in row 1", path, target="y")
    assert load_dataset(path, target="y", dtype="float64").X_train.max() <= 1e300
    load_fails(ValueError, "dtype must be one of float32, float64, got 'float16'", path, target="y", dtype="float16")


def test_classes_with_names_are_no_values(tmp_path):
    data = load_dataset("mnist", raw=True, as_values=True)
    assert data.class_names is not None
    assert data.y_train.dtype == np.int64
    np.savez(tmp_path / "dates.npz", X=np.ones((4, 1)), y=np.arange(4).astype("datetime64[D]"))
    load_fails(ValueError, "labels 'y' must be numbers, got dtype datetime64", tmp_path / "dates.npz", as_values=True)


def test_values_among_words(tmp_path):
    text = "a,y\n" + "".join(f"1,{i / 7}\n" for i in range(50)) + "1,NA\n"
    load_fails(
        ValueError,
        "labels must not be missing, got 'NA' in row 51",
        write(tmp_path / "a.csv", text),
        target="y",
    )
    load_fails(
        ValueError, "labels must not be missing, got 'NA' in row 51", tmp_path / "a.csv", target="y", as_values=True
    )


def test_csv_labels_that_only_python_takes_for_numbers_are_words(tmp_path):
    data = load_dataset(
        write(tmp_path / "a.csv", "a,y\n" + "".join(f"{i},{y}\n" for i, y in enumerate(["1_1", "11"] * 5))), target="y"
    )
    assert data.class_names == ("11", "1_1")


def test_csv_needs_no_pandas(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert load_dataset(write(tmp_path / "a.csv", CSV), target="kind").class_names == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("text", "target", "pattern"),
    [
        (CSV, None, "target must name a column of .*size, weight, kg, kind.* got None"),
        (CSV, "kid", "target must name a column .* got 'kid' .did you mean 'kind'"),
        ("", "y", "must start with a line of column names"),
        ("a,y\n", "y", "must have rows below its header, got none"),
        ("y\n1\n", "y", "must have a feature column beside the target"),
        ("a,a,y\n1,2,3\n", "y", "must have different names, got 'a' twice"),
        (",b,y\n1,2,0\n", "y", r"column 1 .* must have a name \(if it is the index of a pandas frame"),
        ("a,b,y\n1,2,0\n1,red,0\n", "y", "column 'b' must be numeric, got 'red' in row 2"),
        ("a,b,y\n1,2,0\n,3,0\n", "y", "column 'a' must be numeric, got '' in row 2"),
        ("a,b,y\n1,2,0\n1,1_23,0\n", "y", "column 'b' must be numeric, got '1_23' in row 2"),
        ("a,b,y\n1,2,0\n1,3\n", "y", "row 2 of .* must have 3 cells, got 2"),
        ("a,b,y\n1,2,0\n1,3,4,5\n", "y", "row 2 of .* must have 3 cells, got 4"),
        ("a,b,y\n1,2,0\n1,3,\n", "y", "column 'y' must have a label in every row, got none in row 2"),
        ("a,b,y\n1,2,0\n1,nan,1\n", "y", "column 'b' .* must be finite in float32, got nan in row 2"),
        ("a,b,y\n-inf,2,0\n1,3,1\n", "y", "column 'a' .* must be finite in float32, got -inf in row 1"),
        ("a,b,y\n1e99,2,0\n1,3,1\n", "y", "column 'a' .* must be finite in float32, got inf in row 1"),
        ("a,y\n1,0.5\n2,nan\n", "y", "labels 'y' must be finite in float32, got nan in row 2"),
        ("a,y\n1," + "x" * 200_000 + "\n", "y", "must be a CSV file in UTF-8, got: field larger"),
    ],
)
def test_csv_bad(tmp_path, text, target, pattern):
    load_fails(ValueError, pattern, write(tmp_path / "bad.csv", text), target=target)


def test_csv_in_another_encoding(tmp_path):
    path = write(tmp_path / "bad.csv", "größe,y\n1,0\n2,1\n", "latin-1")
    load_fails(ValueError, "must be a CSV file in UTF-8, got: 'utf-8' codec", path, target="y")


# .parquet


@pytest.fixture
def frame():
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    kinds = pandas.Categorical(["cat", "dog", "cat", "eel"])
    return pandas.DataFrame(
        {"n": [1, 2, 3, 4], "kind": kinds, "v": [0.5, -1.0, 2.0, 1e3], "b": [True, False, True, False]}
    )


def test_parquet(tmp_path, frame):
    frame[::-1].to_parquet(tmp_path / "t.parquet")  # another order of rows makes pandas store its index as a column
    data = load_dataset(tmp_path / "t.parquet", target="kind", raw=True)
    X, y = together(data)
    assert X.dtype == np.float32
    assert X.tolist() == [[1, 0.5, 1], [2, -1, 0], [3, 2, 1], [4, 1000, 0]]
    assert data.class_names == ("cat", "dog", "eel")
    assert data.feature_names == ("n", "v", "b")
    assert y.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(("target", "names"), [("b", ("False", "True")), ("n", ("1", "2", "3", "4")), ("v", None)])
def test_parquet_targets(tmp_path, frame, target, names):
    frame.drop(columns="kind").to_parquet(tmp_path / "t.parquet")
    assert load_dataset(tmp_path / "t.parquet", target=target).class_names == names


def test_parquet_of_bytes_is_pixels(tmp_path, frame):
    pixels = frame[["n"]].assign(m=[0, 255, 0, 255]).astype("uint8").assign(y=["a", "b", "a", "b"])
    pixels.to_parquet(tmp_path / "t.parquet")
    raw = load_dataset(tmp_path / "t.parquet", target="y", raw=True)
    assert (raw.X_train.dtype, raw.input_scale, raw.image_shape) == (np.uint8, 1 / 255, None)
    assert load_dataset(tmp_path / "t.parquet", target="y").X_train.max() == 1


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    write(tmp_path / "t.parquet", "PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    load_fails(ModuleNotFoundError, "needs pyarrow to be read: pip install pyarrow", tmp_path / "t.parquet", target="y")


def test_parquet_bad(tmp_path, frame):
    path = tmp_path / "bad.parquet"
    frame.assign(word=["x"] * 4).to_parquet(path)
    load_fails(ValueError, "column 'word' .* must be numeric, got 'x'", path, target="kind")
    load_fails(ValueError, "got 'knd' .did you mean 'kind'", path, target="knd")
    frame.assign(v=[0.5, None, 1.0, 2.0]).to_parquet(path)
    load_fails(ValueError, "column 'v' .* finite in float32, got nan in row 2", path, target="kind")
    frame.assign(kind=["a", "b", None, "a"]).to_parquet(path)
    load_fails(ValueError, "labels 'kind' must be numbers or strings, got None in row 3", path, target="kind")
    frame[:0].to_parquet(path)
    load_fails(ValueError, "must have rows, got none", path, target="kind")
    path.write_bytes(b"PAR1 and no more")
    load_fails(ValueError, "must be a sound .parquet file, got", path, target="kind")
    path.write_bytes(b"")
    load_fails(ValueError, "must be a sound .parquet file, got", path, target="kind")


# Names


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("mnits", "(did you mean 'mnist'?)"),
        ("MNIST", "(did you mean 'mnist'?)"),
        ("fashion_mnist", "(did you mean 'tfds:fashion_mnist'?)"),
        ("zebra", "got 'zebra'"),
    ],
)
def test_unknown_name(name, suggestion):
    message = load_fails(ValueError, "dataset must be 'mnist', 'tfds:NAME', a folder", name)
    assert message.endswith(suggestion)


@pytest.mark.parametrize("name", ["absent.csv", "absent.npz", "absent.parquet", "some/where/absent"])
def test_missing_path(tmp_path, name):
    load_fails(FileNotFoundError, "must be an existing .*absent", tmp_path / name, target="y")


def test_unknown_kind_of_file(tmp_path):
    load_fails(ValueError, r"must be .npz, .csv or .parquet, got .*notes.txt", write(tmp_path / "notes.txt", "hello"))


def test_options_out_of_place():
    load_fails(ValueError, "target must be None for IDX files, .* got 'y'", "mnist", target="y")
    for fraction in (0, 1, -0.1, 1.5, float("nan")):
        load_fails(ValueError, "test_fraction must be (> 0|< 1|finite), got", "mnist", test_fraction=fraction)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"raw": "no"}, "raw must be True or False, got 'no'"),
        ({"as_values": 2}, "as_values must be True or False, got 2"),
        ({"test_fraction": "x"}, "test_fraction must be a number, got 'x'"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"target": 3}, "target must be a name, got 3"),
        ({"name": 3}, "dataset must be a name or a path, got 3"),
    ],
)
def test_values_that_are_none(arguments, message):
    load_fails(ValueError, f"^{message}$", **{"name": "mnist", **arguments})


def test_tfds_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    load_fails(
        ModuleNotFoundError, r"needs the package 'tensorflow_datasets': pip install 'fastmlp\[tfds\]'", "tfds:mnist"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b,y\n1,2,u\n3,4,"v\n5,6,u\n', r"column 'y' must have labels of one line, got 'v\\n5,6,u"),
        ('a,b,y\n1,2,u\n3,4,"v\n5,6,u\n7,8,w"\n1,2,u\n', r"column 'y' must have labels of one line, got 'v\\n5,6,u"),
        ("1.5,0.5,red\n0.25,2.5,red\n", "must start with a line of column names, got the numbers 1.5, 0.5"),
        ("5,0,0,red\n3,0,1,red\n", "must start with a line of column names, got the numbers 5, 0, 0"),
        ("a,red\n1,0\n2,1\n3,NA\n4,1\n", "labels must not be missing, got 'NA' in row 3"),
    ],
)
def test_tables_that_are_not_what_they_seem(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    load_fails(ValueError, message, tmp_path / "table.csv", target="y" if "y" in text.split("\n")[0] else "red")


@pytest.mark.parametrize(
    ("header", "label"),
    [("0,1,y", "v"), ("900.5,902.5,y", "v"), ("a,b,y", "none"), ("a,b,y", '"New\nYork"'), ('"a" ,"b" ,"y"', '"v" ')],
)
def test_tables_that_only_look_odd(tmp_path, header, label):
    (tmp_path / "table.csv").write_text(f"{header}\n1,2,1\n3,4,{label}\n" + "5,6,1\n" * 8)
    assert len(load_dataset(tmp_path / "table.csv", target="y").class_names) == 2
