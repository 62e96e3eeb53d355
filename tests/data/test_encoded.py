"""What the header of an encoded image says, against Pillow."""

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_keras.data.encoded import LARGEST_IMAGE, size_in_header
from resnet_keras.data.images import decode

header = tf.function(size_in_header, input_signature=[tf.TensorSpec([], tf.string)])
decoded = tf.function(lambda encoded: decode(encoded, 3), input_signature=[tf.TensorSpec([], tf.string)])
RNG = np.random.default_rng(0)


def encoded(kind: str, height: int, width: int, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (height, width, 3)).astype("uint8")).save(file, kind, **options)
    return file.getvalue()


KINDS = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 700), (411, 5), (300, 257)])
def test_header_says_the_size(kind: str, options: dict, height: int, width: int) -> None:
    image = encoded(kind, height, width, **options)
    assert [int(side) for side in header(image)] == [height, width]
    assert decoded(image).shape == (height, width, 3)


def test_animated_webp_has_an_extended_header() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (300, 20), colour) for colour in ("red", "blue")]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    assert file.getvalue()[12:16] == b"VP8X"
    assert [int(side) for side in header(file.getvalue())] == [20, 300]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 400), st.integers(1, 400))
def test_any_size_in_a_header_is_pillows(kind: Any, height: int, width: int) -> None:
    image = encoded(kind[0], height, width, **kind[1])
    assert [int(side) for side in header(image)] == [height, width] == [*Image.open(io.BytesIO(image)).size][::-1]


def test_bmp_whose_rows_run_from_the_top() -> None:
    image = bytearray(encoded("BMP", 4, 3))
    image[22:26] = (-4).to_bytes(4, "little", signed=True)
    assert [int(side) for side in header(bytes(image))] == [4, 3]


@pytest.mark.parametrize(("kind", "options"), KINDS[:5])
def test_too_many_pixels_are_refused_before_they_are_decoded(kind: str, options: dict) -> None:
    """The header is changed and the rest left: a decoder that believed it would fail otherwise, or fill the memory."""
    image = bytearray(encoded(kind, 16, 16, **options))
    large = 16_000
    match kind:
        case "JPEG":
            at = image.index(b"\xff\xc0") + 5
            image[at : at + 4] = large.to_bytes(2, "big") * 2
        case "PNG":
            image[16:24] = large.to_bytes(4, "big") * 2
        case "GIF":
            image[6:10] = large.to_bytes(2, "little") * 2
        case "BMP":
            image[18:26] = large.to_bytes(4, "little") * 2
        case "WEBP":
            image[26:30] = large.to_bytes(2, "little") * 2
    assert [int(side) for side in header(bytes(image))] == [large, large]
    assert large * large > LARGEST_IMAGE
    with pytest.raises(tf.errors.InvalidArgumentError, match="16000.*x.*16000.*pixels is larger than"):
        decoded(bytes(image))


def animated(kind: str, **options: Any) -> bytearray:
    """Three frames of 40 x 30, each with colours of its own."""
    file = io.BytesIO()
    frames = [Image.fromarray(RNG.integers(0, 256, (40, 30, 3)).astype("uint8")) for _ in range(3)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], loop=0, **options)
    return bytearray(file.getvalue())


def test_of_a_gif_the_first_frame_alone_is_decoded() -> None:
    """A screen of one pixel does not hide the size of a frame; those behind it cost nothing, whatever their size."""
    image = animated("GIF", comment=b"\x2c" * 300)
    first = tf.io.decode_gif(bytes(image))[0]
    np.testing.assert_array_equal(decoded(bytes(image)), first)
    places = [i for i in range(len(image)) if image[i : i + 9] == b"\x2c\0\0\0\0\x1e\0\x28\0"]
    assert len(places) == 3
    for place in places:
        changed = bytearray(image)
        changed[place + 5 : place + 9] = (16_000).to_bytes(2, "little") * 2
        if place == places[0]:
            changed[6:10] = b"\1\0\1\0"
            with pytest.raises(tf.errors.InvalidArgumentError, match="is larger than"):
                decoded(bytes(changed))
        else:
            np.testing.assert_array_equal(decoded(bytes(changed)), first)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a GIF without a frame"):
        decoded(bytes(image[: places[0]]))


@pytest.mark.parametrize("where", ["comment", "frame"])
def test_a_gif_of_tiny_blocks_is_refused_early(where: str) -> None:
    """Half a megabyte of blocks of one byte: nine seconds once, since each was walked."""
    image = animated("GIF")
    place = 13 + 3 * 2 ** ((image[10] & 7) + 1)  # behind the colours, which may look like the start of a frame
    place = image.index(b"\x2c\0\0\0\0", place) if where == "frame" else place
    blocks = b"\1\0" * 250_000 + b"\0"
    tiny = (b"\x2c\0\0\0\0\x1e\0\x28\0\0\x08" if where == "frame" else b"\x21\xfe") + blocks
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 65536 blocks"):
        decoded(bytes(image[:place] + tiny + image[place:]))


JPEG_XL = bytes.fromhex(
    "ff0a03070013880200d400b59f200000152aa38c1bbc9cebf9f24387c5b48deb0c6db56d610963b3bd3048483843dccdbb48cd03018e396019"
    "c8500c15a09204"
)


@pytest.mark.parametrize("image", [JPEG_XL, encoded("TIFF", 8, 8), encoded("PPM", 8, 8), b"\0\0\0\x0cJXL \r\n\x87\n"])
def test_other_kinds_are_refused_though_tensorflow_may_know_them(image: bytes) -> None:
    if image == JPEG_XL:
        assert tf.io.decode_image(image).shape == (16, 24, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no JPEG, PNG, GIF, BMP or WebP image"):
        decoded(image)


def test_an_animated_webp_is_refused() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="an animated WebP is not decoded"):
        decoded(bytes(animated("WEBP")))
    assert decoded(encoded("WEBP", 5, 7, exif=b"Exif\0\0")).shape == (5, 7, 3)  # extended, not animated


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF0000WEBPVP8L"]))
def test_no_bytes_make_anything_but_an_invalid_argument(junk: bytes, front: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(front + junk)


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, order: str) -> None:
    """The turned image is what Pillow makes of the same file, in either byte order of Exif."""
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    data = exif.tobytes()
    if order == "big":
        word = lambda n, size: n.to_bytes(size, "big")  # noqa: E731
        entry = word(0x0112, 2) + word(3, 2) + word(1, 4) + word(orientation, 2) + b"\0\0"
        data = b"Exif\0\0MM\0*" + word(8, 4) + word(1, 2) + entry + word(0, 4)
    file = io.BytesIO()
    smooth = np.linspace(0, 255, 24 * 40).reshape(24, 40)
    Image.fromarray(np.stack([smooth, smooth[::-1], smooth[:, ::-1]], -1).astype("uint8")).save(
        file, "JPEG", quality=95, exif=data
    )
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)), "float32")
    got = decoded(file.getvalue()).numpy().astype("float32")
    assert got.shape == expected.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    assert np.abs(got - expected).mean() < 2  # two decoders of JPEG


@pytest.mark.parametrize("end", [20, 24, 30, 34])
def test_damaged_exif_leaves_the_image_as_it_is(end: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes()
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=data[: end - 12] + b"\xff" * (len(data) - end + 12))
    assert decoded(file.getvalue()).shape == (4, 8, 3)
