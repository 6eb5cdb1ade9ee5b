"""Image files of every depth become 8-bit RGB without loss, or are refused by a sentence that says what to do."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressbench import data
from compressbench.data.datasets import info
from compressbench.data.images import read_rgb
from compressbench.data.sets import cub200
from compressbench.errors import UserError

GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6  # colour types of PNG
DEEP = [0, 128, 129, 255, 256, 257, 385, 386, 32896, 65406, 65407, 65535]
SHALLOW = [0, 0, 1, 1, 1, 1, 1, 2, 128, 254, 255, 255]  # round(v / 257): half a level is 128.5


def png(path: Path, rows: np.ndarray, colour_type: int, transparent: bytes = b"") -> Path:
    """A PNG file of 16 bits a channel, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 16, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    colour_key = chunk(b"tRNS", transparent) if transparent else b""
    content = chunk(b"IHDR", header) + colour_key + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_sixteen_bit_grey_is_rescaled_and_rounded(tmp_path):
    pixels = read_rgb(png(tmp_path / "deep.png", np.array([DEEP, DEEP[::-1]]), GREY))
    assert pixels.dtype == np.uint8 and pixels.shape == (2, len(DEEP), 3)
    assert all(pixels[0, :, channel].tolist() == SHALLOW for channel in range(3))
    assert pixels[1, :, 0].tolist() == SHALLOW[::-1]
    tiff = saved(tmp_path / "deep.tif", Image.fromarray(np.array([DEEP], dtype=np.uint16)))
    assert read_rgb(tiff)[0, :, 1].tolist() == SHALLOW


@pytest.mark.parametrize(("colour_type", "channels"), [(RGB, 3), (GREY_ALPHA, 2), (RGB_ALPHA, 4)])
def test_sixteen_bit_colour_of_which_a_byte_would_be_lost_is_refused(tmp_path, colour_type, channels):
    rows = np.repeat(np.array([DEEP])[..., None], channels, axis=2)
    with pytest.raises(UserError, match=r"deep\.png is neither 16-bit grey nor .* convert it to 8-bit RGB"):
        read_rgb(png(tmp_path / "deep.png", rows, colour_type))


def test_sixteen_bit_grey_with_a_transparent_value_is_refused(tmp_path):
    with pytest.raises(UserError, match="convert it to 8-bit RGB"):
        read_rgb(png(tmp_path / "key.png", np.array([DEEP]), GREY, transparent=struct.pack(">H", 256)))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_scale_are_refused(tmp_path, mode):
    with pytest.raises(UserError, match=r"numbers\.tif is neither"):
        read_rgb(saved(tmp_path / "numbers.tif", Image.new(mode, (2, 2), 7)))


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.fromarray(np.array([[True, False, True]]))
    assert image.mode == "1"
    assert read_rgb(saved(tmp_path / "bilevel.png", image)).tolist() == [[[255] * 3, [0] * 3, [255] * 3]]


def test_a_palette_gives_its_colours(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 250, 251, 252])
    image.putdata([2, 0, 1])
    assert read_rgb(saved(tmp_path / "palette.png", image)).tolist() == [[[250, 251, 252], [10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize(("mode", "pixel", "colour"), [("LA", (9, 255), [9] * 3), ("RGBA", (1, 2, 3, 255), [1, 2, 3])])
def test_alpha_is_dropped_where_nothing_shows_through(tmp_path, mode, pixel, colour):
    path = saved(tmp_path / "opaque.png", Image.new(mode, (2, 1), pixel))
    assert read_rgb(path).tolist() == [[colour, colour]]


@pytest.mark.parametrize("kind", ["alpha", "grey alpha", "palette", "colour key"])
def test_transparent_pixels_are_refused(tmp_path, kind):
    image, options = Image.new("RGB", (2, 1), (5, 6, 7)), {}
    if kind == "alpha":
        image = Image.new("RGBA", (2, 1), (5, 6, 7, 254))
    elif kind == "grey alpha":
        image = Image.new("LA", (2, 1), (5, 0))
    elif kind == "palette":
        image, options = image.quantize(), {"transparency": 0}
    else:
        options = {"transparency": (5, 6, 7)}
    with pytest.raises(UserError, match=r"seen\.png has transparent pixels; flatten it"):
        read_rgb(saved(tmp_path / "seen.png", image, **options))


def test_cmyk_is_ink_on_white(tmp_path):
    """(255 - C)(255 - K) / 255, rounded."""
    image = Image.new("CMYK", (1, 1), (51, 102, 204, 85))
    assert read_rgb(saved(tmp_path / "ink.tif", image)).tolist() == [[[136, 102, 34]]]
    jpeg = read_rgb(saved(tmp_path / "ink.jpg", image.resize((16, 16)), quality=100))
    assert abs(jpeg.astype(int) - [136, 102, 34]).max() <= 2  # not inverted, whatever the file says of Adobe


def test_eight_bits_are_as_they_were(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(read_rgb(saved(tmp_path / "rgb.png", Image.fromarray(pixels))), pixels)
    grey = read_rgb(saved(tmp_path / "grey.png", Image.fromarray(pixels[..., 0])))
    assert np.array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))


def test_every_data_set_of_image_files_reads_them_so(tmp_path):
    deep = np.full((30, 40), 25700)  # 100 of 255
    for folder in ("DIV2K_train_HR", "Set14"):
        (tmp_path / "external/div2k" / folder).mkdir(parents=True)
        png(tmp_path / "external/div2k" / folder / "a.png", deep, GREY)
    pairs = data.load("div2k", tmp_path)
    assert (pairs.train[0].high == 100).all() and (pairs.test[0].low == 100).all()

    folder = tmp_path / "external/CUB_200_2011"
    (folder / "images").mkdir(parents=True)
    png(folder / "images/a.png", deep, GREY)
    for name, values in {"images": "a.png", "image_class_labels": "1", "train_test_split": "1"}.items():
        (folder / f"{name}.txt").write_text("".join(f"{i} {values}\n" for i in (1, 2)), encoding="utf-8")
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n", encoding="utf-8")
    about = info("cub200_sessions")
    images = cub200.load(tmp_path, None, about).train.images_at(slice(None))
    levels = [(100 / 255 - mean) / std for mean, std in zip(about.mean, about.std, strict=True)]
    assert images[0].mean((1, 2)).tolist() == pytest.approx(levels, abs=1e-5)
