"""An encoder of lossless JPEG (ISO/IEC 10918-1 annex H), small and slow, so that the decoder is not tested against itself."""

import struct

import numpy as np

CODE_BITS = 5  # every one of the 17 categories has a code of five bits, its own number


def encode(values: np.ndarray, bits: int, predictor: int = 1) -> bytes:
    """(H, W) values below 2**bits → a codestream. Predictors: 1 left, 2 above, 7 their mean."""
    return header(*values.shape, bits, predictor) + _stuffed(_bits(values.astype(np.int64), bits, predictor)) + b"\xff\xd9"


def constant(rows: int, columns: int, bits: int) -> bytes:
    """A codestream of pixels that are all 2**(bits − 1): each is as predicted, and its code is five zeros."""
    return header(rows, columns, bits, 1) + bytes(-(-rows * columns * CODE_BITS // 8)) + b"\xff\xd9"


def header(rows: int, columns: int, bits: int, predictor: int, start: int = 0xFFC3, samples: int = 1) -> bytes:
    """Everything before the scan's data."""
    frame = struct.pack(">HHBHHB", start, 8 + 3 * samples, bits, rows, columns, samples)
    frame += b"".join(bytes([number + 1, 0x11, 0]) for number in range(samples))
    counts = [17 if length == CODE_BITS else 0 for length in range(1, 17)]
    table = struct.pack(">HHB", 0xFFC4, 2 + 17 + 17, 0) + bytes([*counts, *range(17)])
    scan = struct.pack(">HHBBBBBB", 0xFFDA, 8, 1, 1, 0, predictor, 0, 0)
    return b"\xff\xd8" + frame + table + scan


def _bits(values: np.ndarray, bits: int, predictor: int) -> str:
    out = []
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            left, above = (int(values[row, column - 1]) if column else 0), (int(values[row - 1, column]) if row else 0)
            if not row:
                predicted = left if column else 1 << (bits - 1)
            elif not column:
                predicted = above
            else:
                predicted = {1: left, 2: above, 7: (left + above) >> 1}[predictor]
            difference = (int(values[row, column]) - predicted + 2**15) % 2**16 - 2**15  # modulo 2**16 (H.1.2.1)
            size = 16 if difference == -(2**15) else abs(difference).bit_length()
            extra = difference if difference >= 0 else difference + (1 << size) - 1
            out.append(format(size, f"0{CODE_BITS}b") + (format(extra, f"0{size}b") if 0 < size < 16 else ""))
    return "".join(out)


def _stuffed(bits: str) -> bytes:
    padded = bits + "1" * (-len(bits) % 8)
    return int(padded, 2).to_bytes(len(padded) // 8, "big").replace(b"\xff", b"\xff\x00")
