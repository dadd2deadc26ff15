# What CANN's compiler is told of our kernels, whichever way they are built: CMakeLists.txt reads this with CANN 9, and
# `python setup.py build_ascend` puts it into the project template of CANN 8.
#
# --cce-auto-sync=off: the kernels set every flag by hand. Unless it is told otherwise, CANN adds --cce-auto-sync by
# itself, and the compiler inserts flags with event ids of its own beside ours.
# -cce-aicore-jump-expand=true: the kernels are long, as everything in them is inlined, and a jump has 16 bits
# (asc-devkit, "Kernel编译时报错“error: out of jump/jumpc imm range”").
set(kernel_options --cce-auto-sync=off -mllvm -cce-aicore-jump-expand=true)
