"""moss-moon-003 (base, sft, sft-plugin), natively: CodeGen's classes under MOSS's names."""
