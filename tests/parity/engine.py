"""The numbers of `hadal logits` on a checkpoint, in exact numerics."""
import json
import subprocess

import numpy as np


class Engine:
    def __init__(self, program, folder, case):
        self.program, self.folder, self.case = program, folder, case

    def run(self, tokens, *options):
        with open(f"{self.folder}/tokens.txt", "w") as f:
            f.write(",".join(map(str, tokens)))
        command = [self.program, "logits", "-m", self.folder, "--tokens", f.name, "--positions", "all", "--numerics",
                   "exact", "--chunk", str(self.case.chunk), "--threads", str(self.case.threads), "--json", *options]
        r = subprocess.run(command, capture_output=True, text=True)
        if r.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {r.returncode}: {r.stderr.strip()}")
        return json.loads(r.stdout)

    def logits(self, tokens=None):
        """[tokens, vocabulary] of the main model, and [tokens - 1, vocabulary] of the drafter or None."""
        tokens = tokens or self.case.tokens
        rows = len(tokens)
        out = self.run(tokens, *(["--mtp"] if self.case.has_mtp else []))
        if out["positions"] != list(range(rows)):
            raise RuntimeError("hadal logits left positions out")
        main = np.array(out["logits"], float)  # a number that is not finite is null there, NaN here
        if not self.case.has_mtp or rows == 1:
            return main, None
        if out["mtp_positions"] != list(range(rows - 1)):
            raise RuntimeError("hadal logits --mtp left positions out")
        return main, np.array(out["mtp_logits"], float).reshape(rows - 1, main.shape[1])

    def streams(self, layer):
        return np.array(self.run(self.case.tokens, "--stream-after", str(layer))["streams"], float)
