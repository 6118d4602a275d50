"""An edit that changed next to nothing is said, with what changes more."""

from PIL import Image

from bowerbird.cli.common import with_flags
from bowerbird.systems.edit_change import changed_share, edit_hint


def test_edits_that_hardly_changed_anything_are_hinted_at() -> None:
    source = Image.new("RGB", (64, 64), "red")
    tinted, changed = Image.new("RGB", (32, 32), (235, 20, 30)), Image.new("RGB", (32, 32), "red")
    changed.paste("blue", (0, 0, 16, 8))
    assert changed_share(source, tinted) == 0
    assert changed_share(source, changed) == 1 / 8
    assert edit_hint([source] * 3, [changed, tinted, changed]) is edit_hint([], []) is None
    said = with_flags(edit_hint([source] * 3, [tinted, changed, tinted]) or "")
    assert "less than 3% of the picture; --preservation 0 changes more, and with --guidance-scale 6" in said
