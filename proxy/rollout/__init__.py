"""Policies that are tried before they are trusted: `mode: observe`, guardrails."""
