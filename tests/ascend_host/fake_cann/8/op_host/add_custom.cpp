#error "an example of the template, which must not be compiled"
