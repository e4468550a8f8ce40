# As `include:`, which would forget that `all` is made where nothing is named.
workflow.include("workflow/Snakefile", overwrite_default_target=True)
