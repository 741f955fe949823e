"""One module per DVC stage: a pure function does the work, `main()` reads params and files and writes outputs."""
