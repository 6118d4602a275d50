"""Generate a picture of your own into other forms: one reference, the prompt's words against the reference's look.

    python examples/own_reference.py fox.png "my fox" "my fox, flat style"

Writes own_reference.png: a row from eta 0 (the reference decides) to eta 1 (the text decides), the reference at its
end.
"""

import sys

import torch

import bowerbird as bb
from bowerbird.core import contact_sheet, images

path, caption, prompt = sys.argv[1:4]
picture = images.read(path)
reference = bb.Neighbors.from_images([prompt], [picture], [caption])
pipe = bb.ReImagenPipeline.from_pretrained("tiny-reimagen")
row = [
    pipe(
        neighbors=reference,
        guidance=bb.Guidance("interleaved", 4.0, 4.0, eta),
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    for eta in (0.0, 0.25, 0.5, 0.75, 1.0)
]
contact_sheet.grid([[*row, picture]], size=128).save("own_reference.png")
