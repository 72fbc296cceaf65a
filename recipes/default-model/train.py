"""Step 3: train. Checkpoints every --save steps; run the same command again to resume.

Optimiser: Muon (orthogonalised momentum) for the matrices, Adam for the embedding
and the norm gains. Schedule: warm-up, constant, then linear to zero over the last
--decay of the steps.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from model import Config, Llama


class Rows:
    """Token rows of different length; batches of similar length, about `tokens` each."""

    def __init__(self, folder, name):
        flat, learn, sizes = (torch.from_numpy(np.load(Path(folder, name + end))) for end in (".npy", "_learn.npy", "_len.npy"))
        self.rows = flat.long().split(sizes.tolist())
        self.learn = learn.split(sizes.tolist())

    def batches(self, tokens, generator):
        """One epoch: pools of neighbouring rows, sorted by length, cut, in random order.

        prepare.py wrote the rows shuffled, each story once in every copy, so the
        pools follow the file and the copies come one after the other.
        """
        for at in range(0, len(self.rows), 2048):
            pool = sorted(range(at, min(at + 2048, len(self.rows))), key=lambda i: len(self.rows[i]))
            out, batch = [], []
            for i in pool:
                if batch and len(self.rows[i]) * (len(batch) + 1) > tokens:
                    out.append(batch)
                    batch = []
                batch.append(i)
            out.append(batch)
            for b in torch.randperm(len(out), generator=generator).tolist():
                yield self.pad(out[b])

    def pad(self, batch):
        longest = max(len(self.rows[i]) for i in batch)
        tokens = torch.zeros(len(batch), longest - 1, dtype=torch.long)
        targets = torch.full_like(tokens, -100)
        for n, i in enumerate(batch):
            row = self.rows[i]
            tokens[n, : len(row) - 1] = row[:-1]
            targets[n, : len(row) - 1] = row[1:].where(self.learn[i][1:], -100)
        return tokens, targets


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(buffer, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonal(g, steps=5):
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix."""
    tall = g.shape[0] > g.shape[1]
    x = g.t() if tall else g
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.t()
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.t() if tall else x


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--intermediate", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in a batch")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--decay", type=float, default=0.5)
    parser.add_argument("--average", type=float, default=0.98, help="decay of the averaged weights that are exported")
    parser.add_argument("--save", type=int, default=50)
    parser.add_argument("--stop", type=int, help="leave after this step; the schedule still counts --steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    train, valid = Rows(args.rows, "train"), Rows(args.rows, "valid")
    config = Config(intermediate_size=args.intermediate)
    model = Llama(config)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimisers = [
        Muon(matrices, lr=args.lr),
        torch.optim.Adam(others, lr=args.adam_lr, betas=(0.9, 0.95), eps=1e-8),
    ]
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step = epoch = done = seen = 0
    seconds = 0.0
    path = args.out / "state.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        average = state["average"]
        for optimiser, saved in zip(optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        step, epoch, done, seen, seconds = (state[k] for k in ("step", "epoch", "done", "seen", "seconds"))
        print(f"resumed at step {step}")

    def scale(step):
        return min((step + 1) / args.warmup, (args.steps - step) / (args.decay * args.steps), 1.0)

    @torch.inference_mode()
    def validate(weights):
        held = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict({k: v.bfloat16().float() for k, v in weights.items()})
        total = count = 0
        for tokens, targets in valid.batches(args.tokens, torch.Generator().manual_seed(0)):
            n = int((targets != -100).sum())
            total, count = total + model.loss(tokens, targets).item() * n, count + n
        model.load_state_dict(held)
        return total / count

    def save():
        state = dict(model=model.state_dict(), average=average, optimisers=[o.state_dict() for o in optimisers])
        state |= dict(step=step, epoch=epoch, done=done, seen=seen, seconds=seconds, config=vars(config))
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        record = dict(step=step, tokens=seen, seconds=round(seconds), valid=round(validate(average), 4))
        with open(args.out / "log.jsonl", "a") as log:
            log.write(json.dumps(record) + "\n")
        print(record, flush=True)

    running, clock = None, time.time()
    while step < args.steps:
        generator = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        for number, (tokens, targets) in enumerate(train.batches(args.tokens, generator)):
            if number < done:
                continue
            factor = scale(step)
            for optimiser, lr in zip(optimisers, (args.lr, args.adam_lr)):
                for group in optimiser.param_groups:
                    group["lr"] = lr * factor
            loss = model.loss(tokens, targets)
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            step, done, seen = step + 1, done + 1, seen + int((targets != -100).sum())
            blend = 1 - min(args.average, step / (step + 20))
            for name, value in model.state_dict().items():
                average[name].lerp_(value, blend)
            value = loss.item()
            assert math.isfinite(value)
            running = value if running is None else 0.98 * running + 0.02 * value
            if step % 20 == 0:
                seconds, clock = seconds + time.time() - clock, time.time()
                print(f"step {step} epoch {epoch} loss {running:.4f} tokens {seen / 1e6:.2f} M {seconds:.0f} s", flush=True)
            if step % args.save == 0 or step in (args.steps, args.stop):
                save()
                clock = time.time()
            if step in (args.steps, args.stop):
                return
        epoch, done = epoch + 1, 0


if __name__ == "__main__":
    main()
