"""Objectives, one file each: what a batch of tokens is trained to predict."""
