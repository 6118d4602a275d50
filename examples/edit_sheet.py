"""A sheet of mask-free edits with known answers: source, result, where they differ, and the real drawing of what was
wanted for.

python examples/edit_sheet.py drawings.parquet edits.png
"""

from __future__ import annotations

import argparse

from bowerbird import KNNDiffusionPipeline
from bowerbird.core import contact_sheet, tensors
from bowerbird.data.pictures import load_pictures
from bowerbird.evaluation.claims.edit_pairs import find
from bowerbird.evaluation.claims.edits import hits_of
from bowerbird.evaluation.claims.experiment import Experiment, Settings
from bowerbird.systems import generation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as bowerbird datasets drawings makes it")
    parser.add_argument("out", help="the sheet, a PNG file")
    arguments = parser.parse_args()
    drawings = load_pictures(arguments.data)
    pairs = find(drawings, 24)  # no model was trained on any of their targets
    sources = tensors.to_pil(drawings.pixels[pairs.source])
    wanted = tensors.to_pil(drawings.pixels[pairs.target])
    hits = hits_of(Experiment(Settings(), [], drawings), pairs)
    pipe = KNNDiffusionPipeline.from_pretrained("tiny-knn")
    made = generation.generate(pipe, hits, generation.Settings(), sources=sources)
    weak = generation.generate(pipe, hits, generation.Settings(strength=0.6, show_source=False), sources=sources)
    words = ["source", "edit", "difference", "image-to-image, 0.6", "the real one"]
    rows = [
        (
            f"{drawings.captions[s]} to {drawings.captions[t]} ({drawings.column('style')[t]})",
            [sources[i], made[i], contact_sheet.difference(sources[i], made[i]), weak[i], wanted[i]],
            words,
        )
        for i, (s, t) in enumerate(zip(pairs.source, pairs.target, strict=True))
    ]
    contact_sheet.labeled_grid(rows).save(arguments.out)


if __name__ == "__main__":
    main()
