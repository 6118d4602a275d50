"""Starting is cheap, and what must not be here is not: torch at import, torchvision and nvidia packages, sockets."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import bowerbird
from bowerbird.cli import common


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


def test_import_and_help_load_no_heavy_library() -> None:
    heavy = "('torch','diffusers','transformers','lancedb','faiss','pandas')"
    code = f"import sys, bowerbird, bowerbird.cli.main; print([m for m in {heavy} if m in sys.modules])"
    assert run(code) == "[]"


def test_bm25_search_needs_neither_torch_nor_lancedb(kb_path: object) -> None:
    code = (
        "import sys, bowerbird as bb\n"
        f"hits = bb.KnowledgeBase.open({str(kb_path)!r}).search(text='red apple', k=1, mode='bm25')\n"
        "print(hits.captions[0][0], [m for m in ('torch', 'lancedb') if m in sys.modules])"
    )
    assert run(code) == "a red apple []"


def test_a_picture_from_the_command_line_imports_what_it_needs(kb_path: object, tmp_path: Path) -> None:
    """Seconds of imports for libraries' parts that no picture needs: they are loaded by whoever asks for them."""
    parts = (
        "torch._dynamo.eval_frame",
        "diffusers.models.transformers.transformer_flux",
        "diffusers.models.autoencoders.autoencoder_rae",
        "lance_namespace_urllib3_client.api",
        "scipy.stats._stats_py",
        "peft.config",
        "matplotlib",
        "cv2",
    )
    command = ["bowerbird", "generate", "tiny-rdm-fast", "--kb", str(kb_path), "--prompt", "red apple", "-n", "1"]
    code = (
        f"import os, sys\nfrom bowerbird.cli import main\nsys.argv = {[*command, '--out', str(tmp_path / 'out')]}\n"
        "try:\n    main()\nexcept SystemExit as left:\n    print(left.code)\n"
        f"print([m for m in {parts} if m in sys.modules], os.environ['OMP_WAIT_POLICY'])"
    )
    assert run(code).splitlines() == ["0", "[] PASSIVE"]


def test_what_was_put_off_is_there_when_asked_for() -> None:
    code = (
        "from bowerbird.core import lazy_imports\nlazy_imports.install()\n"
        "import diffusers, scipy.stats, torch\nfrom diffusers import UNet2DModel\n"
        "from diffusers.models.transformers import DiTTransformer2DModel\n"
        "from torch._dynamo.eval_frame import OptimizedModule\n"
        "print(scipy.stats.norm.cdf(0), DiTTransformer2DModel.__name__)\n"
        "network = torch.compile(torch.nn.Linear(1, 1), backend='eager')\n"
        "print(isinstance(network, OptimizedModule), network(torch.zeros(2, 1)).shape)"
    )
    assert run(code).splitlines() == ["0.5 DiTTransformer2DModel", "True torch.Size([2, 1])"]


def test_adapters_are_seen_by_diffusers_although_peft_was_put_off() -> None:
    pytest.importorskip("peft")
    code = (
        "from bowerbird.core import lazy_imports\nlazy_imports.install()\n"
        "import sys, torch\nfrom diffusers import ModelMixin, ConfigMixin\n"
        "from diffusers.loaders.lora_base import BaseTunerLayer\nprint('peft.config' in sys.modules)\n"
        "from peft import LoraConfig, get_peft_model\n"
        "network = get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(r=1, target_modules=['0']))\n"
        "print(sum(isinstance(layer, BaseTunerLayer) for layer in network.modules()))"
    )
    assert run(code).split() == ["False", "1"]


def test_imports_open_no_socket() -> None:
    code = (
        "import sys\nseen = []\nsys.addaudithook(lambda event, args: seen.append(event) if event in ('socket.connect',"
        " 'socket.getaddrinfo') else None)\nimport bowerbird as bb\n[getattr(bb, name) for name in"
        " bb.__all__]\nprint(seen)"
    )
    assert run(code) == "[]"


def test_no_torchvision_and_no_nvidia_beside_a_cpu_torch() -> None:
    import torch

    names = {(d.metadata["Name"] or "").lower() for d in importlib.metadata.distributions()}
    assert "torchvision" not in names
    if torch.version.cuda is None:
        assert not [n for n in names if n.startswith("nvidia-")]


def test_public_names_are_sorted_and_load() -> None:
    assert bowerbird.__all__ == sorted(
        bowerbird.__all__, key=lambda n: (n.startswith("__"), n)
    ) or bowerbird.__all__ == sorted(bowerbird.__all__)
    assert all(getattr(bowerbird, name) is not None for name in bowerbird.__all__)


def test_a_log_gets_a_line_of_progress_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for every, lines in ((0.0, ["training: 3 of 9", "training: 9 of 9"]), (3600.0, [])):
        monkeypatch.setattr(common, "LINE_EVERY", every)
        with common.show_progress("training", quiet=False) as progress:
            capsys.readouterr()
            progress(3, 9)
            progress(9, 9)
        assert capsys.readouterr().err.splitlines() == lines
    with common.show_progress("training", quiet=True) as progress:
        progress(3, 9)
    assert capsys.readouterr().err == ""
