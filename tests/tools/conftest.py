"""The miniature VOC tree of tests/detection, for the tools too."""

import importlib.util
from pathlib import Path

_path = Path(__file__).resolve().parents[1] / "detection" / "conftest.py"
_spec = importlib.util.spec_from_file_location("detection_fixtures", _path)
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

voc_tree, voc_root = _fixtures.voc_tree, _fixtures.voc_root
