"""llama-tui: LoRA fine-tuning of Llama models on Slurm with Trainium, or on this machine.

The code lives in the top-level folders ``tui``, ``backend`` and ``templates``; this
package only gives them one import name.
"""

__version__ = "0.1.0"
