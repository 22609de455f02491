from installer.cli.start import main

main()
