"""Messages of Kubernetes' protobuf without their schema: enough to see that two say the same.

A field of bytes is a text if it reads as one, else a message if it reads as one. What is zero or empty is left out, as either side may
leave it out.
"""
MAGIC = b"k8s\0"
# The kinds of fields on the wire.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# No message of Kubernetes has a field of a greater number: bytes that read so are no message.
LAST_FIELD = 600


def tree(message):
    """The fields as [number, value], in the order of their numbers."""
    fields, place = [], 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if not 0 < number <= LAST_FIELD:
            raise ValueError("no field")
        if kind == VARINT:
            value, place = _varint(message, place)
        elif kind == BYTES:
            length, place = _varint(message, place)
            value, place = message[place:place + length], place + length
            if place > len(message):
                raise ValueError("cut off")
            value = _text_or_message(value)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
            value, place = message[place:place + length].hex(), place + length
        else:
            raise ValueError("no kind of field")
        if value not in (0, "", []):
            fields.append([number, value])
    return sorted(fields, key=lambda field: field[0])


def _text_or_message(value):
    try:
        text = value.decode()
        if all(letter >= " " or letter in "\n\t" for letter in text):
            return text
    except UnicodeDecodeError:
        pass
    try:
        return tree(value)
    except (ValueError, IndexError):
        return repr(value)


def _varint(message, place):
    number = shift = 0
    while True:
        byte = message[place]
        place += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, place
