"""Line and branch coverage of the CPU kernels, of the AscendC kernels in the emulator, and of Python."""
