"""The size and orientation in the first bytes of an encoded image, read in a TensorFlow graph before it is decoded.

`tf.equal` and not `==`, which in the graph of a servable compares the tensors' identities.
"""

import functools
from typing import Any

import tensorflow as tf

LARGEST_IMAGE = 2**25
"""Pixels of the largest image that is decoded. A file of 400 kB can declare 144 million, which would take half a
gigabyte; 2**25 take 400 MB while they are resized."""
MOST_BLOCKS = 2**16
"""Of a GIF file that are walked; a block is 255 bytes where its maker is honest, which makes 16 MB."""
EXIF_WINDOW = 2**14
"""Bytes at a JPEG's front in which its orientation is looked for."""
ORIENTATION = 0x0112
"""The tag's number (Exif 2.3, section 4.6.4)."""


def decodable(encoded: tf.Tensor) -> tf.Tensor:
    """The bytes of a JPEG, PNG, GIF, BMP or WebP file that are safe to decode; of a GIF, those of its first frame.

    InvalidArgument errors: another kind of file, more than `LARGEST_IMAGE` pixels in its header, an animated WebP.
    TensorFlow's decoder takes more kinds, JPEG XL for one, whose size no header here tells; and all frames of a GIF.
    """
    height, width = size_in_header(encoded)
    is_gif = tf.equal(tf.strings.substr(encoded, 0, 4), b"GIF8")
    encoded, pixels = tf.cond(is_gif, lambda: _first_frame(encoded), lambda: (encoded, height * width))
    words = ["an image of", height, "x", width, f"pixels is larger than the {LARGEST_IMAGE} that are decoded"]
    front = _front(encoded, 32)
    animated = _starts(front, b"RIFF") & _starts(front, b"VP8X", 12) & tf.equal(tf.math.floormod(front[20] // 2, 2), 1)
    checks: list[Any] = [
        tf.debugging.Assert(height * width > 0, ["no JPEG, PNG, GIF, BMP or WebP image"]),
        tf.debugging.Assert(tf.maximum(height * width, pixels) <= LARGEST_IMAGE, words),
        tf.debugging.Assert(tf.logical_not(animated), ["an animated WebP is not decoded; save one image of it"]),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(encoded)


def size_in_header(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width, int64, in the header of a JPEG, PNG, GIF, BMP or WebP file; 0 and 0 of anything else."""
    data = _front(encoded, 32)
    starts = functools.partial(_starts, data)

    def number(first: int, count: int, big: bool = False) -> tf.Tensor:
        places = [256 ** (count - 1 - i if big else i) for i in range(count)]
        return tf.reduce_sum(data[first : first + count] * tf.constant(places, tf.int64))

    def jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
        return shape[0], shape[1]

    def bmp() -> tuple[tf.Tensor, tf.Tensor]:
        height = number(22, 4)  # in two's complement: below zero, rows run from the top
        return tf.minimum(height, 2**32 - height), number(18, 4)

    def webp() -> tuple[tf.Tensor, tf.Tensor]:
        packed = number(21, 4)

        def low_bits(value: tf.Tensor) -> tf.Tensor:
            return tf.math.floormod(value, 2**14)

        return tf.case(
            [
                (starts(b"VP8 ", 12), lambda: (low_bits(number(28, 2)), low_bits(number(26, 2)))),
                (starts(b"VP8L", 12), lambda: (low_bits(packed // 2**14) + 1, low_bits(packed) + 1)),
            ],
            default=lambda: (number(27, 3) + 1, number(24, 3) + 1),
        )

    return tf.case(
        [
            (tf.io.is_jpeg(encoded), jpeg),
            (starts(b"\x89PNG"), lambda: (number(20, 4, big=True), number(16, 4, big=True))),
            (starts(b"GIF8"), lambda: (number(8, 2), number(6, 2))),
            (starts(b"BM"), bmp),
            (starts(b"RIFF") & starts(b"WEBP", 8), webp),
        ],
        default=lambda: (tf.constant(0, tf.int64), tf.constant(0, tf.int64)),
    )


def _first_frame(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A GIF file up to the end of its first frame, and that frame's pixels, int64.

    From block to block, as the GIF89a specification has them. Blocks of a byte or two would take seconds, so there is
    a limit to their number.
    """
    data = tf.io.decode_raw(tf.strings.join([encoded, b"\0"]), tf.uint8)
    length, none = tf.size(data, out_type=tf.int64) - 1, tf.constant(0, tf.int64)

    def at(place: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(place, length)], tf.int64)

    def colours(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.pow(none + 2, tf.math.floormod(flags, 8) + 1), none)

    def behind_parts(place: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Behind the empty part that ends a block's parts, and the number of parts so far."""
        place, _, count = tf.while_loop(
            lambda _, size, count: (size > 0) & (count < MOST_BLOCKS),
            lambda place, size, count: (place + size + 1, at(place + size + 1), count + 1),
            (place, at(place), count + 1),
            parallel_iterations=1,
        )
        return place + 1, count

    def is_extension(place: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return tf.equal(at(place), 0x21) & (count < MOST_BLOCKS)

    def behind_extension(place: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return behind_parts(place + 2, count)

    start, count = tf.while_loop(
        is_extension, behind_extension, (13 + colours(at(none + 10)), none), parallel_iterations=1
    )
    width, height = at(start + 5) + 256 * at(start + 6), at(start + 7) + 256 * at(start + 8)
    end, count = behind_parts(start + 11 + colours(at(start + 9)), count)
    whole = tf.debugging.Assert(tf.equal(at(start), 0x2C) | (count >= MOST_BLOCKS), ["a GIF without a frame"])
    few = tf.debugging.Assert(count < MOST_BLOCKS, [f"a GIF of more than {MOST_BLOCKS} blocks is not decoded"])
    with tf.control_dependencies([check for check in (few, whole) if check is not None]):
        frame = tf.strings.substr(encoded, 0, tf.cast(tf.minimum(end, length), tf.int32))
    return tf.strings.join([frame, b";"]), width * height


def upright(image: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """A decoded image `[H, W, C]`, turned by a JPEG's Exif orientation."""
    orientation = orientation_of(encoded)
    return tf.cond(tf.equal(orientation, 1), lambda: image, lambda: turned(image, orientation))


def orientation_of(encoded: tf.Tensor) -> tf.Tensor:
    """The Exif orientation of a JPEG, 1 to 8; 1 of anything else."""
    return tf.cond(tf.io.is_jpeg(encoded), lambda: _exif_orientation(encoded), lambda: tf.constant(1, tf.int64))


def turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """An image `[H, W, C]` as it stands, from one stored in an Exif orientation, 1 to 8."""

    def among(*orientations: int) -> tf.Tensor:
        return tf.reduce_any(tf.equal(orientation, tf.constant(orientations, tf.int64)))

    # Pixels are gathered: of a uint8 transposition oneDNN says, on each machine, that it needs another.
    sides, channels = tf.shape(image)[:2], tf.shape(image)[2]
    below_and_beside = tf.stack([sides[1], 1])  # how many pixels on, as they are stored, the next one is
    swapped = among(5, 6, 7, 8)
    # tf.reverse: TensorFlow's pass over layouts fails, and says so, at a shape that is sliced backwards.
    height, width = tf.unstack(tf.where(swapped, tf.reverse(sides, [0]), sides))
    below, beside = tf.unstack(tf.where(swapped, tf.reverse(below_and_beside, [0]), below_and_beside))
    rows, columns = tf.range(height), tf.range(width)
    rows = tf.where(among(3, 4, 7, 8), height - 1 - rows, rows)
    columns = tf.where(among(2, 3, 6, 7), width - 1 - columns, columns)
    places = rows[:, None] * below + columns * beside
    return tf.ensure_shape(tf.gather(tf.reshape(image, (-1, channels)), places), (None, None, image.shape[-1]))


def _starts(data: tf.Tensor, text: bytes, at: int = 0) -> tf.Tensor:
    return tf.reduce_all(tf.equal(data[at : at + len(text)], tf.constant(list(text), tf.int64)))


def _front(encoded: tf.Tensor, count: int) -> tf.Tensor:
    """The first bytes as int64, zeros where there are fewer."""
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, count), tf.uint8), tf.int64)
    return tf.ensure_shape(tf.pad(data, [[0, count - tf.size(data)]]), [count])


def _exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """1 to 8; 1 where there is none, or what stands there is damaged."""
    data = _front(encoded, EXIF_WINDOW)
    mark = b"Exif\0\0"
    last = EXIF_WINDOW - len(mark) + 1
    found = tf.reduce_all(tf.stack([tf.equal(data[i : last + i], byte) for i, byte in enumerate(mark)]), 0)
    tiff = tf.argmax(tf.cast(found, tf.int8), output_type=tf.int64) + 6
    little = tf.equal(data[tf.minimum(tiff, EXIF_WINDOW - 1)], ord("I"))

    def number(first: tf.Tensor, count: int) -> tf.Tensor:
        """Of each place in `first`, a number of so many bytes; of nothing beyond the window."""
        places = tf.expand_dims(first, -1) + tf.range(count, dtype=tf.int64)
        values = tf.gather(data, tf.clip_by_value(places, 0, EXIF_WINDOW - 1))
        values = tf.where(little, values, values[..., ::-1])
        return tf.reduce_sum(values * tf.constant([256**i for i in range(count)], tf.int64), -1)

    directory = tiff + number(tiff + 4, 4)
    entries = directory + 2 + 12 * tf.range(64, dtype=tf.int64)
    there = tf.range(64, dtype=tf.int64) < number(directory, 2)
    chosen = there & tf.equal(number(entries, 2), ORIENTATION) & (entries < EXIF_WINDOW - 12)
    value = tf.reduce_max(tf.where(chosen, number(entries + 8, 2), 0))
    good = tf.reduce_any(found) & (value >= 1) & (value <= 8)
    return tf.where(good, value, tf.constant(1, tf.int64))
