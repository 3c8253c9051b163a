"""What runs the jobs: Slurm, or Direct where there is no Slurm."""
