"""Generate a picture of your own in other forms: the prompt's words against the reference's look.

    python examples/own_reference.py fox.png "my fox" "my fox, flat style"

Writes own_reference.png: a row from text ratio 0 (the reference decides) to 1 (the text decides), the reference at its
end.
"""

import argparse

import torch

import bowerbird as bb
from bowerbird.core import contact_sheet, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture")
    parser.add_argument("caption", help="what the picture shows")
    parser.add_argument("prompt")
    arguments = parser.parse_args()
    picture = images.read(arguments.picture)
    reference = bb.Neighbors.from_images([arguments.prompt], [picture], [arguments.caption])
    pipe = bb.ReImagenPipeline.from_pretrained("tiny-reimagen")
    row = [
        pipe(
            neighbors=reference,
            guidance=bb.Guidance("interleaved", 4.0, 4.0, text_ratio),
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        for text_ratio in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    contact_sheet.grid([[*row, picture]], size=128).save("own_reference.png")


if __name__ == "__main__":
    main()
