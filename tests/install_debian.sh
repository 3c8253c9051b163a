#!/bin/sh
# Install the Debian/Ubuntu packages the tests need: a real Slurm, sshd and tmux. Quick when they are there.
set -eu

packages="slurm-wlm munge openssh-server tmux"
PATH="$PATH:/usr/sbin:/sbin"

# The programs decide, not the package data base: whoever built Slurm from source is as welcome.
missing=""
for program in slurmctld slurmd sbatch srun munged sshd ssh ssh-keygen tmux; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

give_up() {
    printf 'error: the tests need programs that are missing:%s\n' "$missing" >&2
    printf '%s\n' "$1" >&2
    printf 'hint: sudo apt-get update && sudo apt-get install --no-install-recommends %s\n' "$packages" >&2
    exit 1
}

command -v apt-get >/dev/null || give_up "This is not a Debian or Ubuntu; install the same programs by your package manager."
sudo=""
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || give_up "Installing needs root, and sudo wants a password (or is not there)."
    sudo="sudo -n"
fi

echo "installing for the tests: $packages" >&2
install() {
    # shellcheck disable=SC2086  # both are lists of plain words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages >&2
}
# The package lists of a fresh container are empty, and old ones name files that are gone; else they do as they are.
install || { $sudo apt-get update -q >&2 && install; } || give_up "apt-get failed, its own message is above."
