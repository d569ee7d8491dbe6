"""Evaluation against verl, lm-evaluation-harness and transformers: tests/golden/eval/.

Run from the repository's root with a Python that has torch, transformers and tokenizers, and with a folder in PYTHONPATH
that has verl and lm_eval (`pip install --no-deps --target FOLDER verl lm_eval sacrebleu lxml portalocker tabulate colorama`):

    PYTHONPATH=FOLDER python tools/golden/eval.py

answers.json: answer texts and what each rule makes of them, found by the packages' own functions:
  gsm8k_strict, gsm8k_flexible      verl/utils/reward_score/gsm8k.py, extract_solution and compute_score; the right number as
                                    verl's examples/data_preprocess/gsm8k.py takes it from a row, re.search(...) and no commas
  harness_strict, harness_flexible  the filters of lm_eval/tasks/gsm8k/gsm8k.yaml and its exact_match, arguments and all
Each case has "said", "right", and for each rule [extracted text or null, right or not]. What the harness extracts is given as
it compares it, behind regexes_to_ignore.

The two differ: the harness takes the first marked number and verl the last, and only of the last 300 characters; the
harness's loose rule takes dollar signs and two or more of ",.$" for a number, verl's a single ","; the harness ignores a full
stop at the end, commas and dollar signs on both sides, verl only commas, and these not in its loose rule.

perplexity.json: for models of tests/golden/models the sum of the negative log-likelihoods of a text's tokens by the sliding
windows of transformers' page "Perplexity of fixed-length models". The page's window of max_length tokens scores max_length
- 1 of them, so tane's window of `context` is its max_length = context + 1. tokenizer.json: one token a character.
"""

import importlib.util
import json
import math
import os
import random
import re
import sys

import lm_eval
import numpy as np
import tokenizers
import torch
import transformers
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter

OUT = "tests/golden/eval"


def load_verl():
    """The one file: the package itself needs ray and more."""
    for folder in sys.path:
        path = os.path.join(folder, "verl", "utils", "reward_score", "gsm8k.py")
        if os.path.exists(path):
            spec = importlib.util.spec_from_file_location("verl_gsm8k", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            with open(os.path.join(folder, "verl", "version", "version")) as f:
                return module, f.read().strip()
    sys.exit("verl is not in PYTHONPATH")


def load_harness():
    path = os.path.join(os.path.dirname(lm_eval.__file__), "tasks", "gsm8k", "gsm8k.yaml")
    with open(path) as f:
        task = yaml.safe_load(f)
    filters = {}
    for entry in task["filter_list"]:
        first = entry["filter"][0]
        filters[entry["name"]] = RegexFilter(first["regex_pattern"], first.get("group_select", 0))
    metric = task["metric_list"][0]
    return filters, {k: metric[k] for k in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}


# ---- answers

def right_answers(rng):
    number = rng.choice(["18", "0", "-7", "70000", "1,800", "2.5", "3", "540", "12,345,678", "64", "0.75", "18."])
    return f"He has {rng.randint(1, 99)}*2=<<3*2=6>>6 apples.\nSo it is ${number}.\n#### {number}"


def texts(rng, number):
    bare = number.replace(",", "")
    comma = f"{int(bare):,}" if re.fullmatch(r"-?\d+", bare) else bare
    pad = "x" * rng.randint(285, 305)
    wide = "é日\U0001F600"
    fixed = [
        "", " ", "####", "#### ", "####18", "#### -", "#### .", "#### ,", "#### .,", "#### $18", ".", "...", ". .", ",", "-", "--5",
        "- 5", "5-3", "no number here", "#### eighteen", f"#### {bare}", f"#### {comma}", f"#### {bare}.", f"#### {bare},",
        f"#### {bare} dollars", f"#### {bare}\n", f"#### -{bare}", f"##### {bare}", f"###### {bare}", f"#### #### {bare}",
        f"#### 1\n#### {bare}", f"#### {bare}\n#### 1", f"#### {bare}#### 2", f"####  {bare}", f"####\t{bare}", f"#### {bare}.0",
        f"#### {bare}.\n", f"####\n{bare}", f"### {bare}", f"The answer is {bare}", f"The answer is {bare}.", f"The answer is ${comma}.",
        f"The answer is ${bare}", f"${bare}$", f"\\boxed{{{bare}}}", f"{bare} apples and 5", f"5 apples, {bare}", f"{bare}%",
        f"= {bare} . ", f"{bare} ...", f"{bare} ,", f"{bare} , .", f"{bare} .. .", f"{bare} - ", f"{bare}-", f"{bare} $", f"{bare} $$",
        f"{bare} $.", f"{bare} 7$", f"{bare} -$8", f"{bare}e5", f"1/{bare}", f"0{bare}", f"+{bare}", f"\u2212{bare}", f"{bare}\u00b2",
        f"\uff11\uff18 #### {bare}", f"\u0661 {bare}", f"#### {bare}\u00a0", f"####\u00a0{bare}", f"#### {bare}" + "x" * 289,
        f"#### {bare}" + "x" * (300 - 5 - len(bare)), f"#### {bare}" + "x" * (301 - 5 - len(bare)), f"#### {bare}" + "x" * 400,
        pad + f"#### {bare}", f"#### {bare} " + pad, f"#### {bare}" + wide * 98, f"#### {bare}" + wide * 99, f"#### {bare}" + wide * 100,
        wide * 200 + f"#### {bare}", f"{bare} " + "y" * 298, f"{bare} " + "y" * 300, f"12{bare}" + "y" * (300 - len(bare)),
        f"#### 5 then\nThe answer is {bare}. #### {comma}", f"#### 1,2,3", f"#### 1.2.3", f"1.2.3", "1,,2", "-.5", "-,", "-.", "5 -.", "5 -,",
        "#### -5-5", f"Final answer: {comma} #### {comma}", f"#### {comma}.", f"<<{bare}>>", f"{bare}<|im_end|>",
    ]
    pieces = ["#### ", "####", " ", "\n", bare, comma, "$", ".", ",", "-", "apples", "5", "18", "é", "So ", "= "]
    made = ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 14))) for _ in range(220)]
    return fixed + made


def answers():
    verl, version = load_verl()
    filters, metric = load_harness()
    rng = random.Random(5)
    cases = []

    def bare(text):
        for pattern in metric["regexes_to_ignore"]:
            text = re.sub(pattern, "", text)
        return text

    for i in range(4):
        right = right_answers(rng) if i else "18 it is.\n#### 18"
        truth = re.search("#### (\\-?[0-9\\.\\,]+)", right).group(0).split("#### ")[1].replace(",", "")
        said_all = texts(rng, re.search("#### (.*)", right).group(1).rstrip("."))
        for said in said_all if i == 0 else rng.sample(said_all, 120):
            case = {"said": said, "right": right}
            for method in ("strict", "flexible"):
                case["gsm8k_" + method] = [verl.extract_solution(said, method), bool(verl.compute_score(said, truth, method))]
            for name, rule in (("strict-match", "harness_strict"), ("flexible-extract", "harness_flexible")):
                found = list(filters[name].apply([[said]], [{}]))[0][0]
                score = exact_match_hf_evaluate(predictions=[found], references=[right], **metric)["exact_match"]
                case[rule] = [None if found == "[invalid]" else bare(found), bool(score)]
            cases.append(case)
    write("answers.json", {"verl": version, "lm_eval": importlib.metadata.version("lm_eval"), "cases": cases})
    rules = ["gsm8k_strict", "gsm8k_flexible", "harness_strict", "harness_flexible"]
    print(len(cases), "answers; right:", {r: sum(c[r][1] for c in cases) for r in rules})


# ---- perplexity

def make_tokenizer():
    characters = [chr(ord("a") + i) for i in range(26)] + list(" .,'\n0123456789") + list("éüßñ日本語д∑😀")
    vocab = {"<bos>": 0, "<eos>": 1, **{c: i + 2 for i, c in enumerate(characters)}}
    assert len(vocab) <= 61
    tok = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tok.add_special_tokens(["<bos>", "<eos>"])
    tok.save(f"{OUT}/tokenizer.json")
    with open(f"{OUT}/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>"}, f)
    return tok, characters


def sliding(model, ids, max_length, stride):
    total, scored, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        target_length = end - previous_end
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        labels[:, :-target_length] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss
        n = int((labels[:, 1:] != -100).sum())
        if n:
            total += float(loss) * n
            scored += n
        previous_end = end
        if end == len(ids):
            break
    return total, scored


def perplexity():
    tok, characters = make_tokenizer()
    rng = random.Random(3)
    documents = ["".join(rng.choice(characters) for _ in range(n)) for n in (157, 33, 9, 2, 1, 32, 64)]
    cases = []
    for name in ("gpt2-tied", "llama-untied"):
        model = transformers.AutoModelForCausalLM.from_pretrained(f"tests/golden/models/{name}", dtype=torch.float64,
                                                                  attn_implementation="eager").eval()
        for context, stride in ((16, 16), (16, 5), (16, 1), (31, 31), (31, 30), (7, 3)):
            for bos in (False, True):
                rows = []
                for text in documents:
                    ids = tok.encode(text).ids
                    size = len(text.encode()) if bos else len(text[1:].encode())
                    total, scored = sliding(model, ([0] if bos else []) + ids, context + 1, stride)
                    assert scored == len(ids) - (not bos), (scored, len(ids))
                    rows.append([total, scored, size])
                total, scored, size = (sum(row[i] for row in rows) for i in range(3))
                cases.append({"model": name, "context": context, "stride": stride, "add_bos": bos, "documents": rows,
                              "perplexity": math.exp(total / scored), "bits_per_byte": total / math.log(2) / size})
    write("perplexity.json", {"transformers": transformers.__version__, "torch": torch.__version__,
                              "documents": documents, "cases": cases})
    print(len(cases), "perplexities, e.g.", cases[0]["perplexity"], cases[0]["bits_per_byte"])


def write(name, value):
    with open(f"{OUT}/{name}", "w") as f:
        json.dump(value, f, ensure_ascii=False, indent=0, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    answers()
    perplexity()
