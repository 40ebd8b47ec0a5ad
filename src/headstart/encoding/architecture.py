"""What a model file may ask of timm: the plain name of an architecture, and only such arguments as shape it.

timm's `create_model` takes more, e.g. where weights are fetched from, and a model file must not lead anywhere.
"""

from __future__ import annotations

from headstart import schema

# Of the arguments of timm's architectures those that are numbers, flags, names of layers and of poolings, or lists.
_SHAPING = """
    act_layer aa_layer attn_drop_rate attn_mlp_ratio attn_ratio avg_down base_width block_reduce_first cardinality
    channels class_token conv_bias conv_mlp cpe_act depth depth_mult depths dim dims down_kernel_size downsamples
    drop_block_rate drop_path_rate drop_rate dynamic_img_pad dynamic_img_size embed_dim embed_dims expand_ratio
    expansion_ratio fc_norm final_norm fix_stem fused_conv global_pool groups growth_rate head_dim head_hidden_size
    head_init_scale head_norm_first init_values kernel_size key_dim layer_scale_init_value layers ls_init_value
    mlp_ratio mlp_ratios no_embed_class norm_eps norm_layer num_features num_heads output_stride pad_type
    patch_drop_rate
    patch_size pool_type pos_drop_rate pos_embed pre_norm proj_bias proj_drop_rate qk_norm qkv_bias qkv_fused
    reg_tokens replace_stem_pool rope_temperature scale_attn_norm scale_mlp_norm se_ratio sr_ratios stem_chs stem_size
    stem_stride stem_type stem_width strict_img_size swiglu_mlp use_abs_pos_emb use_fc_norm use_grn
    use_layer_scale use_pos_embed use_rel_pos_bias use_rot_pos_emb use_shared_rel_pos_bias weight_init width widths
    width_mult window_size zero_init_last
"""
SHAPING = frozenset(_SHAPING.split())
_PLAIN = schema.nullable(schema.either(schema.FLAG, schema.text(r"\w*", most=64), schema.number(-1e5, 1e5)))
_LIST = schema.listing(schema.either(schema.listing(_PLAIN, most=256), _PLAIN), most=256)
ARGUMENTS = schema.table(schema.either(_LIST, _PLAIN), SHAPING)
NAME = schema.text(r"\w+(\.\w+)?", "the name of an architecture of timm, without a place", most=200)
