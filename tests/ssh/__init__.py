"""What the tests of SSH need besides a real sshd."""
