"""EZKL on one of our ONNX networks: proves and verifies once, prints one line of JSON.

Set-up (settings, compiled circuit, keys) is timed apart: it is paid once for a network. The reference string is made here, by
whoever runs this: good for measuring, and for nothing else.
"""

import argparse
import json
import os
import resource
import tempfile
import time

import ezkl


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="ONNX file; its first axis may be symbolic")
    parser.add_argument("--input", required=True, help="JSON list of numbers, all inputs one behind the other")
    parser.add_argument("--inputs", type=int, required=True, help="how many inputs they are")
    args = parser.parse_args()
    numbers = json.load(open(args.input))

    with tempfile.TemporaryDirectory() as folder:
        path = lambda name: os.path.join(folder, name)
        json.dump({"input_data": [numbers]}, open(path("input"), "w"))
        seconds = {}

        def timed(what, f):
            wall, cpu = time.perf_counter(), sum(os.times()[:4])
            result = f()
            seconds[what] = {
                "seconds": time.perf_counter() - wall,
                "cpu_seconds": sum(os.times()[:4]) - cpu,
            }
            return result

        def prepare():
            run = ezkl.PyRunArgs()
            run.input_visibility = "public"
            run.output_visibility = "public"
            run.param_visibility = "fixed"
            run.variables = [("batch_size", args.inputs), ("N", args.inputs), ("batch", args.inputs)]
            assert ezkl.gen_settings(args.model, path("settings"), py_run_args=run)
            ezkl.calibrate_settings(path("input"), args.model, path("settings"), "resources")
            assert ezkl.compile_circuit(args.model, path("circuit"), path("settings"))
            rows = json.load(open(path("settings")))["run_args"]["logrows"]
            ezkl.gen_srs(path("srs"), rows)
            assert ezkl.setup(path("circuit"), path("vk"), path("pk"), srs_path=path("srs"))
            return rows

        def prove():
            ezkl.gen_witness(path("input"), path("circuit"), path("witness"))
            ezkl.prove(path("witness"), path("circuit"), path("pk"), path("proof"), srs_path=path("srs"))

        def verify():
            assert ezkl.verify(path("proof"), path("settings"), path("vk"), srs_path=path("srs"))

        rows = timed("setup", prepare)
        timed("prove", prove)
        timed("verify", verify)
        proof = json.load(open(path("proof")))
        hexed = proof.get("hex_proof") or ""
        print(
            json.dumps(
                {
                    "version": ezkl.__version__,
                    "inputs": args.inputs,
                    "logrows": rows,
                    "setup_seconds": seconds["setup"]["seconds"],
                    "prove_seconds": seconds["prove"]["seconds"],
                    "prove_cpu_seconds": seconds["prove"]["cpu_seconds"],
                    "verify_seconds": seconds["verify"]["seconds"],
                    "proof_bytes": len(hexed) // 2 if hexed else len(proof["proof"]),
                    "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                }
            )
        )


main()
