"""What each command does, once its configuration is composed and checked."""
