"""Training on one CUDA GPU: is it right, how fast is it, and what beside `transformers`.

    python -m benchmarks.gpu.kit            # where there is a network: .gpu/ for a bare machine
    python -m benchmarks.gpu right          # on the GPU: gradients against float32; stops if wrong
    python -m benchmarks.gpu speed --cases base-512 tiny
    python -m benchmarks.gpu report         # benchmarks/results/gpu.md

Each stage ends within --minutes, and what it finds is in .gpu/found.jsonl after each turn: half an
hour with a machine is enough.
"""
