"""The tests; all see the processor as one without products of bfloat16.

So `--precision auto` is float32 on whatever machine they run, in the processes that they start as
well. It is set before torch is imported. Those that ask for bfloat16 have the processor's own.
"""

import os

os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
