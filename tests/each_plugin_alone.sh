#!/bin/sh
# Installs each plugin by itself into the current environment, runs its own tests, and takes it out again.
# Usage: each_plugin_alone.sh ROOT
set -eu
root=$1
for plugin in arrays npz nwb compression transforms report dask; do
    python -m pip install --quiet --no-build-isolation "$root/plugins/$plugin"
    pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -n 2 --dist loadfile \
        -m "not slow and not plugins" "$root/plugins/$plugin/tests"
    python -m pip uninstall --quiet --yes "neurofm-shards-$plugin"
done
