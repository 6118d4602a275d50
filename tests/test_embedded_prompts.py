"""What pictures of other programs say of themselves becomes their caption, and a hostile one says nothing."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bowerbird.data import sources
from bowerbird.data.sources.embedded_prompt import MOST_PROMPT, prompt_in

SETTINGS = "\nNegative prompt: ugly\nSteps: 20, Sampler: Euler a, Seed: 1"
PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description rdf:about="" {attributes}>{inner}</rdf:Description>'
    "</rdf:RDF></x:xmpmeta>"
)


def _file(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, form, **options)
    return buffer.getvalue()


def _png(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    return _file("PNG", pnginfo=info)


def _exif(tag: int, value: Any, *, in_folder: bool = True) -> bytes:
    exif = Image.Exif()
    (exif.get_ifd(0x8769) if in_folder else exif)[tag] = value
    return exif.tobytes()


def _xmp(attributes: str = "", **properties: str) -> bytes:
    inner = "".join(
        f'<dc:{name}><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li><rdf:li xml:lang="de">nein</rdf:li></rdf:Alt>'
        f"</dc:{name}>"
        for name, text in properties.items()
    )
    return PACKET.format(attributes=attributes, inner=inner).encode()


def _iptc(caption: bytes) -> bytes:
    """A JPEG with Photoshop's block of IPTC: a title, then the caption."""
    sets = b"\x1c\x02\x05\0\x03dog" + b"\x1c\x02\x78" + len(caption).to_bytes(2, "big") + caption
    block = b"8BIM\x04\x04\0\0" + len(sets).to_bytes(4, "big") + sets + b"\0" * (len(sets) % 2)
    part = b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02ab" + block
    plain = _file("JPEG")
    return plain[:2] + b"\xff\xed" + (len(part) + 2).to_bytes(2, "big") + part + plain[2:]


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _graph(**nodes: dict[str, Any]) -> dict[str, Any]:
    """A sampler whose negative prompt stands first, with `nodes` in place of what is there or beside it."""
    return {
        "7": _node("CLIPTextEncode", text="ugly, watermark", clip=["4", 1]),
        "6": _node("CLIPTextEncode", text="a red mug", clip=["4", 1]),
        "3": _node("KSampler", seed=1, model=["4", 0], positive=["6", 0], negative=["7", 0], sampler_name="euler"),
        "8": _node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": _node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    } | {key.removeprefix("n"): node for key, node in nodes.items()}


GRAPHS = {
    "plain": _graph(),
    "through ControlNet and guidance": _graph(
        n3=_node("KSampler", positive=["20", 0], negative=["20", 1]),
        n20=_node("ControlNetApplyAdvanced", positive=["21", 0], negative=["7", 0], control_net=["30", 0], strength=1),
        n21=_node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
    ),
    "words of another node": _graph(
        n6=_node("CLIPTextEncode", text=["40", 0], clip=["4", 1]),
        n40=_node("StringConcatenate", string_a=["41", 0], string_b="mug", delimiter=" / "),
        n41=_node("PrimitiveString", value="a red"),
    ),
    "SDXL": _graph(n6=_node("CLIPTextEncodeSDXL", text_g="a red", text_l="mug", width=1024, clip=["4", 1])),
    "combined": _graph(
        n3=_node("KSamplerAdvanced", positive=["50", 0], negative=["7", 0]),
        n50=_node("ConditioningCombine", conditioning_1=["51", 0], conditioning_2=["52", 0]),
        n51=_node("CLIPTextEncode", text="a red"),
        n52=_node("CLIPTextEncode", text="mug"),
    ),
    "a guider": _graph(
        n3=_node("SamplerCustomAdvanced", guider=["60", 0], noise=["61", 0]),
        n60=_node("BasicGuider", model=["4", 0], conditioning=["6", 0]),
    ),
    "the sampler that is saved": {"1": _node("KSampler", positive=["7", 0])} | _graph(),
    "in a circle": _graph(
        n3=_node("KSampler", positive=["70", 0], negative=["7", 0]),
        n70=_node("ConditioningConcat", conditioning_to=["70", 0], conditioning_from=["71", 0]),
        n71=_node("ConditioningConcat", conditioning_to=["70", 0], conditioning_from=["6", 0]),
    ),
}
WORKFLOW = {
    "nodes": [
        {"id": 7, "type": "CLIPTextEncode", "inputs": [{"name": "clip", "link": 1}], "widgets_values": ["ugly"]},
        {"id": 6, "type": "CLIPTextEncode", "inputs": [{"name": "clip", "link": 1}], "widgets_values": ["a red mug"]},
        {
            "id": 3,
            "type": "KSampler",
            "inputs": [{"name": "negative", "link": 3}, {"name": "positive", "link": 2}],
            "widgets_values": [1, "randomize", 20, 8, "euler"],
        },
        {"id": 9, "type": "SaveImage", "inputs": [{"name": "images", "link": 4}], "widgets_values": ["ComfyUI"]},
    ],
    "links": [
        [1, 4, 1, 6, 0, "CLIP"],
        [2, 6, 0, 3, 1, "CONDITIONING"],
        [3, 7, 0, 3, 2, "CONDITIONING"],
        [4, 3, 0, 9, 0, "IMAGE"],
    ],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_prompt_of_a_graph_is_what_leads_to_positive(name: str) -> None:
    words = prompt_in(_png(workflow="{}", prompt=json.dumps(GRAPHS[name])))
    assert words.replace(",", "") == "a red mug"


def test_a_graph_without_its_prompt_is_read_as_the_editor_keeps_it() -> None:
    assert prompt_in(_png(workflow=json.dumps(WORKFLOW))) == "a red mug"


COMMENT = 0x9286
TEXT = f"a red mug, 水彩{SETTINGS}"


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize(
    "exif",
    [
        _exif(COMMENT, b"UNICODE\0" + TEXT.encode("utf-16-be")),
        _exif(COMMENT, b"UNICODE\0" + TEXT.encode("utf-16-le")),
        _exif(COMMENT, b"UNICODE\0" + TEXT.encode()),
        _exif(COMMENT, b"\0" * 8 + TEXT.encode()),
        _exif(COMMENT, b"ASCII\0\0\0" + json.dumps({"prompt": "a red mug, 水彩"}).encode()),
        _exif(COMMENT, json.dumps({"prompt": "a red mug, 水彩"}), in_folder=False),
        _exif(
            0x0110, "prompt:" + json.dumps(_graph(n6=_node("CLIPTextEncode", text="a red mug, 水彩"))), in_folder=False
        ),
    ],
    ids=["UTF-16", "UTF-16 little", "UTF-8", "no encoding", "JSON", "Fooocus", "ComfyUI"],
)
def test_the_prompt_in_exif(form: str, exif: bytes) -> None:
    assert prompt_in(_file(form, exif=exif)) == "a red mug, 水彩"


def test_the_description_in_xmp_and_iptc() -> None:
    for form in ("JPEG", "WEBP"):
        both = _file(form, xmp=_xmp(title="IMG 1", description="mug &amp; spoon &#x1F944;"))
        assert prompt_in(both) == "mug & spoon 🥄"
    assert prompt_in(_file("JPEG", xmp=_xmp(title="A mug", description="SONY DSC"))) == "A mug"
    assert prompt_in(_file("JPEG", xmp=_xmp('dc:description="a mug"'))) == "a mug"
    assert prompt_in(_png(**{"XML:com.adobe.xmp": _xmp(title="A mug").decode()})) == "A mug"
    assert prompt_in(_iptc("Tasse, été".encode())) == prompt_in(_iptc("Tasse, été".encode("cp1252"))) == "Tasse, été"
    for nothing in ("OLYMPUS DIGITAL CAMERA", "Untitled-1", "Web"):
        assert prompt_in(_iptc(nothing.encode())) == prompt_in(_file("JPEG", xmp=_xmp(title=nothing))) == ""


def test_what_a_stranger_wrote_is_bounded_plain_text() -> None:
    deep = json.dumps({"3": _node("KSampler", positive=["6", 0])}).replace('["6", 0]', "[" * 3000 + "]" * 3000)
    many = {str(i): _node("KSampler", positive=[str((i + 1) % 4000), 0], text_a=["1", 0]) for i in range(4000)}
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    assert prompt_in(_png(prompt=deep)) == prompt_in(_png(prompt=json.dumps(many))) == ""
    assert prompt_in(_png(prompt='{"3": 1, "4": {"inputs": []}, "5": {"inputs": {"positive": [[], 0]}}}')) == ""
    assert prompt_in(_png(workflow='{"nodes": [1, {"inputs": 2}], "links": [[1], {}, [1, [], 0]]}')) == ""
    assert prompt_in(_file("JPEG", xmp=laughs.encode() + _xmp(description="&b;"))) == "&b;"
    assert prompt_in(_file("JPEG", xmp=_xmp(description="<script>x</script>"))) == ""
    assert prompt_in(_iptc(b"a\x1b[31m\0red")) == "a [31m red"
    long = prompt_in(_png(prompt=json.dumps(_graph(n6=_node("CLIPTextEncode", text="mug " * 5000)))))
    assert len(long) == MOST_PROMPT
    for whole in (
        _iptc(b"a mug"),
        _file("WEBP", exif=_exif(COMMENT, b"UNICODE\0" + TEXT.encode("utf-16-be")), xmp=_xmp(title="A mug")),
        _file("JPEG", exif=_exif(COMMENT, b"UNICODE\0" + TEXT.encode("utf-16-be"))),
    ):
        for end in range(len(whole)):
            prompt_in(whole[:end])
            prompt_in(whole[:end] + b"\xff\xff\xff\xff" + whole[end + 4 :])


def test_a_folder_takes_them_as_captions(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0001.jpg").write_bytes(
        _file("JPEG", exif=_exif(COMMENT, b"UNICODE\0" + TEXT.encode("utf-16-be")))
    )
    (tmp_path / "mine" / "0002.png").write_bytes(_png(prompt=json.dumps(_graph())))
    assert [item.caption for item in sources.read(tmp_path)] == ["a red mug, 水彩", "a red mug"]
