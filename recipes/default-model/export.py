"""Step 4: write the averaged weights in Hugging Face form: bf16 safetensors, config, tokenizer."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import Config, Llama

# A system message is ignored: the model was never shown one. Text between the
# turns is exactly what prepare.py wrote.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Story:\\n' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Story:\\n' }}{% endif %}"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder written by train.py")
    parser.add_argument("--rows", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    state = torch.load(args.run / "state.pt", weights_only=True)
    config = Config(**state["config"])
    Llama(config).load_state_dict(state["average"])  # checks names and shapes
    weights = {name: value.bfloat16().contiguous() for name, value in state["average"].items()}
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(args.rows / "tokenizer.json", args.out / "tokenizer.json")
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
        "chat_template": TEMPLATE,
    }
    generation = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    for name, value in (
        ("config.json", config.hugging_face()),
        ("tokenizer_config.json", tokenizer),
        ("generation_config.json", generation),
    ):
        (args.out / name).write_text(json.dumps(value, indent=2) + "\n")
    parameters = sum(value.numel() for value in weights.values())
    print(f"step {state['step']}, {parameters:,} parameters, {state['seen']:,} tokens seen, {state['seconds']:.0f} s")


if __name__ == "__main__":
    main()
