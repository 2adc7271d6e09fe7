"""The command of the run in ``before_0_1``; it is given in the folder that holds the run."""

COMMAND = (
    "--data_path train.json --eval_data_path val.json --codes codes.safetensors --model_path model "
    "--audio_tokenizer_path no_codec --output_dir run --max_steps 6 --batch_size 1 --gradient_accumulation_steps 2 "
    "--learning_rate 1e-2 --lora_rank 2 --lora_dropout 0.1 --logging_steps 2 --eval_steps 2 --save_steps 3 "
    "--report_to none"
)
