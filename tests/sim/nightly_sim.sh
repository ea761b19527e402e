#!/bin/sh
# Two million rounds of the simulator in a hundred worlds, and shorter lives of a thousand others.
B=${B:-build}
STEPS=20000 "$B/tests/sim/test_sim" || exit 1
n=101
while [ "$n" -le 1100 ]; do
    SEED=$n STEPS=300 "$B/tests/sim/test_sim" >/tmp/hadal-sim.$$ || {
        cat /tmp/hadal-sim.$$
        rm -f /tmp/hadal-sim.$$
        exit 1
    }
    n=$((n + 1))
done
rm -f /tmp/hadal-sim.$$
echo "ok 2 - a thousand short lives"
