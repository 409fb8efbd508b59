"""Reads a data set as EDM's ImageFolderDataset walks it, with the standard library alone.

edm_zip_check.py ZIP: prints "COUNT WIDTH HEIGHT CHANNELS" and the labels in the order of
the pictures ("null" without); exit code 1 with a word where EDM would not take the file.
"""
import json
import struct
import sys
import zipfile
import zlib


def png_shape(data, name):
    """(width, height, channels) of a PNG, whose pixels are inflated and counted."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        sys.exit(f"{name}: no PNG")
    at, packed, shape = 8, b"", None
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        (crc,) = struct.unpack(">I", data[at + 8 + size:at + 12 + size])
        if crc != zlib.crc32(kind + body):
            sys.exit(f"{name}: wrong CRC")
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            shape = (width, height, {0: 1, 2: 3}.get(colour, 0))
            if depth != 8 or not shape[2]:
                sys.exit(f"{name}: neither 8-bit gray nor RGB")
        packed += body if kind == b"IDAT" else b""
        at += 12 + size
    if len(zlib.decompress(packed)) != shape[1] * (shape[0] * shape[2] + 1):
        sys.exit(f"{name}: pixels are missing")
    return shape


def main(path):
    archive = zipfile.ZipFile(path)
    if archive.testzip():
        sys.exit(f"{archive.testzip()}: damaged")
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            sys.exit(f"{entry.filename}: not stored")
        if entry.date_time != (1980, 1, 1, 0, 0, 0):
            sys.exit(f"{entry.filename}: a date of its own")
    names = sorted(name for name in archive.namelist() if name.lower().endswith(".png"))
    for name in names:
        number = int(name[-12:-4])
        if name != f"{number:08d}"[:5] + f"/img{number:08d}.png":
            sys.exit(f"{name}: not EDM's name")
    shapes = {png_shape(archive.read(name), name) for name in names}
    if len(shapes) != 1:
        sys.exit(f"several shapes: {shapes}")
    print(len(names), *shapes.pop())
    labels = json.loads(archive.read("dataset.json"))["labels"]
    if labels is not None:
        by_name = dict(labels)
        labels = [by_name[name.replace("\\", "/")] for name in names]
    print(json.dumps(labels))


if __name__ == "__main__":
    main(sys.argv[1])
