"""Campaign files that `matterloop init` starts from."""
