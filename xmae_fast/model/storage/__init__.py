"""How models are kept: files of weights, folders of pretrained models, the Hugging Face Hub.

Nothing here imports the model. Functions that make one take what makes it as their first argument, and the modules
`checkpoint` and `pretrained` of the package above hand them the class `xMAE`.
"""
