"""What transformers makes of the chat templates that models really have, for tests/real/test_real_templates.c.

    real_templates.py FOLDER     FOLDER/templates/*.jinja, fetched by tools/real/fetch_templates.sh

The templates belong to others and stay where they were fetched; kept here are sums (the first 16 digits of SHA-256) of
templates, of texts and of masks of {% generation %}, and the beginnings of the words with which templates refuse. Made with transformers 5.23.0, jinja2 3.1.6.
"""

import datetime
import hashlib
import json
import pathlib
import sys

import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils as ctu

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conversations

OUT = conversations.OUT
NOW = datetime.datetime(2026, 11, 22, 13, 5, 9)  # 1795352709 seconds since 1970, UTC
SPECIAL = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
TOKENIZER = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)


def freeze_time(template):
    compiled = ctu._compile_jinja_template(template)
    compiled.environment.globals["strftime_now"] = lambda format: NOW.strftime(format)


def sha(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def render(template, case, mask=False):
    """The text, and with `mask` a string of 0 and 1 for its characters; or what went wrong."""
    options = {k: case.get(k) for k in ("tools", "documents")}
    options.update(case.get("variables", {}))
    flags = {k: case.get(k, False) for k in ("add_generation_prompt", "continue_final_message")}
    try:
        freeze_time(template)
        text = TOKENIZER.apply_chat_template(case["messages"], chat_template=template, tokenize=False, **flags, **options)
    except jinja2.exceptions.TemplateError as e:
        if type(e) is jinja2.exceptions.TemplateError:  # raise_exception
            return {"raise": str(e)}
        return {"error": type(e).__name__}
    except Exception as e:
        return {"error": type(e).__name__}
    out = {"text": text}
    if mask and not flags["continue_final_message"]:
        messages = [{k: v for k, v in m.items() if v is not None} for m in case["messages"]]
        texts, spans = ctu.render_jinja_template(
            [messages], chat_template=template, return_assistant_tokens_mask=True,
            add_generation_prompt=flags["add_generation_prompt"], **SPECIAL, **options)
        assert texts[0] == text
        bits = ["0"] * len(text)
        for start, end in spans[0]:
            bits[start:end] = "1" * (end - start)
        out["mask"] = "".join(bits)
    return out


def main(folder):
    results = {}
    for path in sorted(pathlib.Path(folder, "templates").glob("*.jinja")):
        source = path.read_bytes()
        template = source.decode()
        marks = "{% generation" in template or "{%- generation" in template
        rows = []
        for case in conversations.CASES:
            result = render(template, case, marks)
            rows.append({k: sha(v)[:16] if k in ("text", "mask") else v[:60] for k, v in result.items()})
        results[path.name] = {"sha256": hashlib.sha256(source).hexdigest()[:16], "results": rows}
    good = sum("text" in r for t in results.values() for r in t["results"])
    bad = sum("text" not in r for t in results.values() for r in t["results"])
    versions = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}
    body = ",\n".join(f'{json.dumps(k)}: {json.dumps(v, separators=(",", ":"))}' for k, v in results.items())
    (OUT / "real.json").write_text('{"versions": %s,\n"templates": {\n%s\n}}\n' % (json.dumps(versions), body))
    print(f"{len(results)} templates, {good} texts, {bad} errors")


if __name__ == "__main__":
    main(sys.argv[1])
