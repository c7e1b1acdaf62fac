"""The codecs of the format: encode and decode side by side in one class each."""
