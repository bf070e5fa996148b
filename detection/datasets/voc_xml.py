"""One annotation file of the VOC format: its size and its objects, or what is wrong with it by line and tag.

What matters (``object``, ``bndbox``, ``difficult`` and the sides of a box) is read where the challenge puts it, or is a
defect: a tag of that name anywhere else would otherwise be an object that nobody sees. Tolerated are what labelling
tools write and cannot be mistaken: ``<objects>`` around the objects, ``difficult`` in any case, namespaces, and every
other tag (``source``, ``pose``, ``part``, ``polygon``, ...).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from detection.datasets.types import AnnotatedObject, OnDefect, class_name_faults, normal_form
from pretrain.run.values import flag, number_of_text, whole_number

SIDES = ("xmin", "ymin", "xmax", "ymax")
OBJECT_TAGS = ("name", "bndbox", "difficult")
READ = frozenset(("object", "bndbox", "difficult", *SIDES))  # nowhere but in their place
READ_IN_PARTS = frozenset(("object", "difficult"))  # below an object whose own box was read, the rest is its parts'
MAX_PLACE = 100  # characters of the tags above one, as a defect shows them
ONCE_PER_OBJECT = tuple(tag.encode() for tag in ("object", "bndbox", *SIDES))

Known = Mapping[str, str] | None  # normal form of a class name -> the name; None where every name is welcome


def known_names(classes: Iterable[str] | None) -> Known:
    """Return what ``read_annotation`` looks names up in."""
    return None if classes is None else {normal_form(name): name for name in classes}


def read_annotation(
    path: Path, content: bytes, known: Known, on_defect: OnDefect
) -> tuple[int, int, tuple[AnnotatedObject, ...]]:
    """Return the picture's width and height (0 where the file does not say) and the objects.

    ``on_defect`` is told of every object that cannot be understood, which is then left out, and of misplaced tags.

    Raises:
        ValueError: not an annotation, or a size that is none; as every defect with file, line and tag.
    """
    plain = content.replace(b"\0", b"")  # UTF-16 pads with zeros
    root = _parse(path, content, plain)
    nodes, sizes = _object_nodes(root), root.findall("size")
    faults = [] if _is_usual(plain.lower(), nodes) else _structure_faults(root, nodes)
    unclear = {id(element) for element, _ in faults}
    objects = []
    for node in nodes:
        if id(node) in unclear:
            continue
        try:
            objects.append(_read_object(node, known))
        except ValueError as error:
            faults.append((node, str(error)))
    for node, text in faults:
        on_defect(ValueError(f"{path}, line {_line(content, root, node)}: {text}"))
    try:
        width, height = _read_size(sizes)
    except ValueError as error:
        raise ValueError(f"{path}, line {_line(content, root, sizes[-1])}: {error}") from None
    return width, height, tuple(objects)


def object_lines(path: Path) -> list[int]:
    """Return the line in which each object of an annotation begins, in the order of ``read_annotation``.

    Raises:
        OSError, ValueError: as ``read_annotation``.
    """
    content = path.read_bytes()
    root = _parse(path, content, content.replace(b"\0", b""))
    return [_line(content, root, node) for node in _object_nodes(root)]


def _object_nodes(root: ElementTree.Element) -> list[ElementTree.Element]:
    nodes = []
    for child in root:
        if child.tag == "object":
            nodes.append(child)
        elif child.tag == "objects":
            nodes.extend(child.findall("object"))
    return nodes


def _parse(path: Path, content: bytes, plain: bytes) -> ElementTree.Element:
    """Return the root, whose tags have no namespaces."""
    # A document type can define entities that grow without bound; no VOC annotation has one.
    forbidden = re.search(rb"<!(DOCTYPE|ENTITY)", plain)
    if forbidden:
        line = plain[: forbidden.start()].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: {forbidden[0].decode()} is not allowed in an annotation")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        line, column = error.position
        reason = str(error).partition(":")[0]
        raise ValueError(f"{path}, line {line}, column {column + 1}: not well-formed XML ({reason})") from None
    except (LookupError, ValueError) as error:  # an encoding that does not exist or cannot be read
        raise ValueError(f"{path}, line 1: not well-formed XML ({error})") from None
    if b"xmlns" in plain:
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
    if root.tag != "annotation":
        raise ValueError(
            f"{path}, line {_line(content, root, root)}: the outermost tag is {root.tag!r}, but a VOC annotation has "
            "'annotation'; convert the file to the VOC format"
        )
    return root


def _is_usual(lower: bytes, nodes: list[ElementTree.Element]) -> bool:
    """Return whether the words that matter stand in the file as often as in the objects, and so nowhere else.

    Counting is quick; where a word stands in a comment or a name too, or a tag is absent, ``_structure_faults`` looks.
    """
    with_difficult = sum(node.find("difficult") is not None for node in nodes)
    return (
        all(lower.count(word) == 2 * len(nodes) for word in ONCE_PER_OBJECT)  # a start and an end
        and lower.count(b"difficult") == 2 * with_difficult
    )


def _structure_faults(
    root: ElementTree.Element, nodes: list[ElementTree.Element]
) -> list[tuple[ElementTree.Element, str]]:
    """Return, in the file's order, what stands twice, in another case or in another place, and why it is a fault.

    ``difficult`` in another case is put right in the tree.
    """
    objects = set(map(id, nodes))
    faults = []
    waiting = [(root, "", READ)]  # an element, the tags above it, and what must not be below it
    while waiting:
        element, above, forbidden = waiting.pop()
        tag = element.tag.lower()
        place = f"{above} > {element.tag}"[-MAX_PLACE:] if above else element.tag
        if id(element) in objects:
            if fault := _object_fault(element):
                faults.append((element, fault))
            else:
                others = [child for child in element if child.tag not in (*OBJECT_TAGS, "part")]
                waiting += [(child, place, READ_IN_PARTS) for child in reversed(others)]
        elif tag in forbidden and (tag != "object" or len(element)):  # an empty one is a word about some object
            faults.append((element, f"the tag {element.tag!r} is not read in {above}"))
        else:
            waiting += [(child, place, forbidden) for child in reversed(element)]
    return faults


def _object_fault(node: ElementTree.Element) -> str | None:
    for child in node:
        if child.tag.lower() == "difficult":
            child.tag = "difficult"
    name = (node.findtext("name") or "").strip()
    for owner, wanted in ((node, OBJECT_TAGS), *((box, SIDES) for box in node.findall("bndbox"))):
        for child in owner:
            if child.tag not in wanted and child.tag.lower() in wanted:
                return f"object {name!r} with the tag {child.tag!r}; expected {child.tag.lower()!r}"
        for tag in wanted:
            count = len(owner.findall(tag))
            if count > 1:
                return f"object {name!r} with {count} {tag}; expected one, and an object for each box"
    return None


def _read_object(node: ElementTree.Element, known: Known) -> AnnotatedObject:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("object without name")
    if len(node.findall("name")) > 1:
        raise ValueError(f"object {name!r} with several names")
    if known is None:
        name = normal_form(name)
        if faults := class_name_faults([name]):
            raise ValueError(faults[0])
    elif normal_form(name) not in known:
        raise ValueError(f"unknown class {name!r}; the known ones are {', '.join(known.values())}")
    else:
        name = known[normal_form(name)]
    box = node.find("bndbox")
    if box is None:
        raise ValueError(f"object {name!r} without bndbox")
    coordinates = []
    for side in SIDES:
        text = box.findtext(side)
        if text is None:
            raise ValueError(f"object {name!r} without {side}")
        try:
            coordinates.append(number_of_text(text))
        except ValueError as error:
            raise ValueError(f"{side} of object {name!r} {error}") from None
    try:
        difficult = flag(node.findtext("difficult") or "0")
    except ValueError as error:
        raise ValueError(f"difficult of object {name!r} {error}") from None
    return AnnotatedObject(name, tuple(coordinates), difficult)


def _read_size(sizes: list[ElementTree.Element]) -> tuple[int, int]:
    if len(sizes) > 1:
        raise ValueError(f"{len(sizes)} tags 'size'; expected one")
    result = []
    for side in ("width", "height"):
        texts = [element.text for element in sizes[0].findall(side)] if sizes else []
        if len(texts) > 1:
            raise ValueError(f"size with {len(texts)} {side}; expected one")
        text = (texts[0] or "").strip() if texts else ""
        try:
            pixels = whole_number(number_of_text(text or "0"))  # some labelling tools leave the size out or write 0
        except ValueError as error:
            raise ValueError(f"{side} of the picture {error}") from None
        if pixels < 0:
            raise ValueError(f"{side} of the picture is negative: {text}")
        result.append(pixels)
    return result[0], result[1]


def _line(content: bytes, root: ElementTree.Element, wanted: ElementTree.Element) -> int:
    """Return the line of an element; ElementTree does not keep lines, so parse again and count the starts of tags."""
    lines: list[int] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda _tag, _attributes: lines.append(parser.CurrentLineNumber)
    parser.Parse(content, True)
    return lines[next(place for place, element in enumerate(root.iter()) if element is wanted)]
