"""The float64 reference of tools/train_tiny on one sequence, able to take the other of two close candidates.

Which entries and experts are taken jumps where two scores are closer than fp32 can tell; from there on two correct
programs differ. So every close pair across a cut is noted, and `explain` looks for the exchanges that another program
made: with them the numbers must agree everywhere."""
import numpy as np

import reference

CLOSE = 3e-5  # of the largest score; fp32 programs differ from float64 by 1e-7 to 1e-5
TRIES_MAX, EXCHANGES_MAX = 24, 6


class Chooser:
    """Stands in for the reference's choice of the k best. The choices of one list come token by token."""

    def __init__(self):
        self.exchanged, self.close, self.place = set(), {}, None

    def begin(self, place):
        self.place = (place, 0)

    def best(self, score, k):
        name, token = self.place
        self.place = (name, token + 1)
        order = np.argsort(-score, kind="stable")
        if k < len(order):
            gap = (score[order[k - 1]] - score[order[k]]) / max(np.abs(score).max(), 1e-30)
            if gap < CLOSE:
                self.close[name, token] = gap
            if (name, token) in self.exchanged:
                order[[k - 1, k]] = order[[k, k - 1]]
        return np.sort(order[:k])


class Truth(reference.Model):
    def __init__(self, folder, case):
        super().__init__(folder)
        self.case, self.chooser = case, Chooser()
        reference.best = self.chooser.best
        self.compute()

    def select(self, a, qa, p, f):
        self.chooser.begin(p)
        return super().select(a, qa, p, f)

    def route(self, x, tokens, p):
        self.chooser.begin(p)
        return super().route(x, tokens, p)

    def compute(self, exchanged=()):
        """logits and, with a drafter, mtp_logits as [tokens, vocabulary]; the drafter has no last row."""
        self.chooser.exchanged, self.chooser.close = set(exchanged), {}
        tokens = np.array(self.case.tokens)
        self.streams = self.forward(tokens)
        self.logits_main = self.logits(self.streams[-1])[0]
        has_mtp = self.case.has_mtp and len(tokens) > 1
        self.logits_mtp = self.mtp(self.streams[-1], tokens) if has_mtp else None

    def first_wrong(self, main, mtp, limit):
        """The first token whose logits are off, or None."""
        wrong = ~(np.abs(main - self.logits_main).max(1) <= limit)
        if mtp is not None:
            wrong[:-1] |= ~(np.abs(mtp - self.logits_mtp).max(1) <= limit)
        return int(wrong.argmax()) if wrong.any() else None

    def explain(self, main, mtp, limit):
        """Leaves the reference with the exchanges that make it agree, as far as there are any, and returns them."""
        made, tries = [], 0
        self.compute()
        wrong = self.first_wrong(main, mtp, limit)
        while wrong is not None and len(made) < EXCHANGES_MAX:
            near = [(t != wrong, gap, (p, t)) for (p, t), gap in self.chooser.close.items()
                    if t <= wrong and (p, t) not in made]
            for _, gap, place in sorted(near)[:TRIES_MAX]:
                self.compute(made + [place])
                later = self.first_wrong(main, mtp, limit)
                if later is None or later > wrong:
                    made.append(place)
                    wrong = later
                    break
            else:
                break
        self.compute(made)
        return made
