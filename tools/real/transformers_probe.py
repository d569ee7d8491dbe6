"""What transformers says about a model folder that tane wrote, for comparison: `make test-real PYTHON=python` runs it
with a Python that has torch and transformers.

    transformers_probe.py logits FOLDER FILE           as tools/real/llama_probe.c
    transformers_probe.py tokens FOLDER 0|1 < TEXTS    as tools/real/llama_probe.c
    transformers_probe.py chat FOLDER < CASES          {"messages": ..., "add_generation_prompt": ...} a line; the
                                                       rendered texts end with a NUL byte
"""

import json
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
command, folder = sys.argv[1:3]

if command == "logits":
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values()), info  # every tensor was there, and none that transformers does not know
    sample, *prompts = [[int(i) for i in line.split()] for line in open(sys.argv[3])]
    for ids in prompts:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        top, best = logits.max(-1)
        rows = torch.cat([top[:, None], logits.logsumexp(-1)[:, None], logits[:, sample]], 1).tolist()
        for token, row in zip(best.tolist(), rows):
            print(token, *(f"{x:.9g}" for x in row))
elif command == "tokens":
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in sys.stdin.buffer.read().split(b"\0")[:-1]:
        print(*tokenizer.encode(text.decode(), add_special_tokens=False, split_special_tokens=sys.argv[3] == "0"))
elif command == "chat":
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for line in sys.stdin:
        case = json.loads(line)
        text = tokenizer.apply_chat_template(case["messages"], tokenize=False,
                                             add_generation_prompt=case["add_generation_prompt"])
        sys.stdout.buffer.write(text.encode() + b"\0")
else:
    sys.exit(f"transformers_probe.py: {command} is neither logits nor tokens nor chat")
