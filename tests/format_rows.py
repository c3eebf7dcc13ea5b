"""A row of each format, and what it is read as."""

from typing import Any

U = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "good"}
B = {"role": "assistant", "content": "bad"}
S = {"role": "system", "content": "s"}
PAIR = ("q", "good", "bad")
TURNS = ([U], [A], [B])
SFT = [U, A]
RANKED = ("q", ("good", "bad"))

ROWS: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "huozi": [({"id": 1, "prompt": "q", "chosen": "good", "reject": "bad"}, PAIR)],
    "pair": [
        ({"prompt": "q", "chosen": "good", "rejected": "bad"}, PAIR),
        ({"prompt": [U], "chosen": [A], "rejected": [B]}, TURNS),
        ({"query": "q", "selected": "good", "rejected": "bad"}, PAIR),
    ],
    "implicit": [
        ({"chosen": [U, A], "rejected": [U, B]}, TURNS),
        (
            {"chosen": "x[/INST]good", "rejected": "x[/INST]bad"},
            ("x[/INST]", "good", "bad"),
        ),
    ],
    "hh": [
        (
            {
                "chosen": "\n\nHuman: q\n\nAssistant: good",
                "rejected": "\n\nHuman: q\n\nAssistant: bad",
            },
            TURNS,
        )
    ],
    "hh-split": [
        (
            {"prompt": "\n\nHuman: q", "chosen": "Assistant: good", "rejected": "Assistant: bad"},
            TURNS,
        ),
        (
            {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " good", "rejected": " bad"},
            TURNS,
        ),
    ],
    "binarized": [
        (
            {
                "prompt": "q",
                "prompt_id": "1",
                "chosen": [U, A],
                "rejected": [U, B],
                "messages": [U, A],
                "score_chosen": 8.0,
                "score_rejected": 6.5,
            },
            (*TURNS, 1.5),
        ),
        (
            {
                "prompt": "q",
                "chosen": [U, A],
                "chosen-rating": 5.0,
                "rejected": [U, B],
                "rejected-rating": 4.0,
                "source": "x",
            },
            (*TURNS, 1.0),
        ),
        ({"prompt": "q", "chosen": [A], "rejected": [B]}, TURNS),
    ],
    "alpaca-ranking": [
        (
            {"instruction": "q", "input": "i", "chosen": "good", "rejected": "bad"},
            ("q\ni", "good", "bad"),
        ),
        (
            {
                "instruction": "q",
                "input": "",
                "chosen": "good",
                "rejected": "bad",
                "system": "s",
                "history": [["q1", "a1"]],
            },
            (
                [
                    S,
                    {"role": "user", "content": "q1"},
                    {"role": "assistant", "content": "a1"},
                    U,
                ],
                [A],
                [B],
            ),
        ),
    ],
    "sharegpt-ranking": [
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            TURNS,
        ),
        (
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "q"},
                ],
                "chosen": "good",
                "rejected": "bad",
            },
            ([S, U], [A], [B]),
        ),
    ],
    "llamafactory-v1": [
        (
            {
                side + "_messages": [
                    {"role": r, "content": [{"type": "text", "value": v}], "loss_weight": 1.0}
                    for r, v in (("user", "q"), ("assistant", answer))
                ]
                for side, answer in (("chosen", "good"), ("rejected", "bad"))
            },
            TURNS,
        )
    ],
    "messages-ranking": [
        ({"messages": [S, U], "chosen": "good", "rejected": "bad"}, ([S, U], [A], [B])),
        ({"messages": [U], "chosen": A, "rejected": B}, TURNS),
        ({"messages": [U, A], "chosen": [A], "rejected": [B], "margin": 2}, (*TURNS, 2.0)),
        ({"messages": [U, A], "chosen": [U, A], "rejected": [U, B]}, TURNS),
    ],
    "ms-swift": [({"messages": [U, A], "rejected_response": "bad"}, TURNS)],
    "ms-swift-query": [({"query": "q", "response": "good", "rejected_response": "bad"}, PAIR)],
    "ms-swift-messages": [
        ({"messages": [U, A], "rejected_messages": [U, B]}, TURNS),
        ({"messages": [U, A], "rejected_messages": [B]}, TURNS),
        ({"messages": [U, A], "rejected_messages": "bad"}, TURNS),
    ],
    "hh-rlhf-cn": [
        (
            {
                "context": [{"role": "human", "text": "q"}],
                "chosen": {"role": "assistant", "text": "good"},
                "rejected": {"role": "assistant", "text": "bad"},
            },
            TURNS,
        )
    ],
    "openai": [
        (
            {
                "input": {"messages": [U], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [A],
                "non_preferred_output": [B],
            },
            TURNS,
        )
    ],
    "nemo-template": [
        (
            {
                "prompt": "<extra_id_0>System\n\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n",
                "chosen_response": "good\n<extra_id_1>",
                "rejected_response": "bad\n<extra_id_1>",
            },
            TURNS,
        )
    ],
    "nemo": [({"prompt": "q", "chosen_response": "good", "rejected_response": "bad"}, PAIR)],
    "medicalgpt": [
        ({"question": "q", "response_chosen": "good", "response_rejected": "bad"}, PAIR)
    ],
    "orca": [
        ({"system": "s", "question": "q", "chosen": "good", "rejected": "bad"}, ([S, U], [A], [B])),
        ({"system": "", "question": "q", "chosen": "good", "rejected": "bad"}, PAIR),
    ],
    "cvalues": [({"prompt": "q", "pos_resp": "good", "neg_resp": "bad"}, PAIR)],
    "stack-exchange": [({"question": "q", "response_j": "good", "response_k": "bad"}, PAIR)],
    "pku-saferlhf": [
        (
            {
                "prompt": "q",
                "response_0": "bad",
                "response_1": "good",
                "is_response_0_safe": True,
                "better_response_id": 1,
                "safer_response_id": 0,
            },
            PAIR,
        )
    ],
    "shp": [
        (
            {
                "history": "q",
                "human_ref_A": "bad",
                "human_ref_B": "good",
                "labels": 0,
                "score_A": 3,
                "score_B": 9,
                "score_ratio": 3.0,
            },
            (*PAIR, 6.0),
        )
    ],
    "helpsteer2-preference": [
        (
            {"prompt": "q", "response_1": "good", "response_2": "bad", "preference_strength": -2},
            (*PAIR, 2.0),
        )
    ],
    "helpsteer3": [
        (
            {"context": [U], "response1": "bad", "response2": "good", "overall_preference": 3},
            (*TURNS, 3.0),
        )
    ],
    "alpaca-eval": [
        (
            {"instruction": "q", "output_1": "bad", "output_2": "good", "preference": 2},
            (*PAIR, 0.5),
        ),
        (
            {"instruction": "q", "output_1": "good", "output_2": "bad", "preference": 1.25},
            (*PAIR, 0.25),
        ),
        (
            {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 0},
            ("q", "a", "b", 0.0),
        ),
    ],
    "paddlenlp": [
        ({"src": ["q"], "tgt": [], "response": ["bad", "good"], "sort": [0, 1]}, PAIR),
        (
            {"src": ["q0", "q"], "tgt": ["a0"], "response": ["good", "bad"], "sort": [1, 0]},
            (
                [
                    {"role": "user", "content": "q0"},
                    {"role": "assistant", "content": "a0"},
                    U,
                ],
                [A],
                [B],
            ),
        ),
    ],
    "alpaca-ranked": [({"instruction": "q", "input": "", "output": ["good", "bad"]}, RANKED)],
    "ultrafeedback": [
        (
            {
                "instruction": "q",
                "models": ["m"],
                "completions": [
                    {
                        "response": answer,
                        "annotations": {
                            name: {"Rating": rating}
                            for name, rating in zip(
                                ("instruction_following", "honesty", "truthfulness", "helpfulness"),
                                ratings,
                                strict=True,
                            )
                        },
                    }
                    for answer, ratings in (("bad", "1234"), ("good", ("5", "N/A", "4", "3")))
                ],
            },
            ("q", ("bad", "good"), (2.5, 4.0)),
        )
    ],
    "webgpt": [
        (
            {
                "question": {"dataset": "eli5", "full_text": "q"},
                "answer_0": "good",
                "answer_1": "bad",
                "score_0": 1.0,
                "score_1": -1.0,
            },
            (*RANKED, (1.0, -1.0)),
        )
    ],
    "text-score": [
        (
            {
                "text": ["\n\nHuman: q\n\nAssistant: good", "\n\nHuman: q\n\nAssistant: bad"],
                "score": [2.0, 1],
            },
            ("\n\nHuman: q\n\nAssistant:", ("good", "bad"), (2.0, 1.0)),
        )
    ],
    "gpt4llm": [
        (
            {
                "user_input": "Below is an instruction that describes a task.\n\n"
                "### Instruction:\nq\n\n### Input:\ni\n\n### Response:",
                "responses_and_scores": [
                    {"response": "good", "source": "gpt4", "score": "9.0"},
                    {"response": "bad", "source": "davinci", "score": "7"},
                ],
            },
            ("q\ni", ("good", "bad"), (9.0, 7.0)),
        )
    ],
    "scored": [
        ({"prompt": "q", "responses": ["good", "bad"], "scores": [2, 1]}, (*RANKED, (2.0, 1.0)))
    ],
    "nemo-rl": [
        (
            {
                "context": [U],
                "completions": [{"rank": 1, "completion": [B]}, {"rank": 0, "completion": [A]}],
            },
            ([U], ([B], [A]), (-1.0, 0.0)),
        )
    ],
    "ranked": [({"prompt": "q", "responses": ["good", "bad"]}, RANKED)],
    "alpaca": [
        ({"instruction": "q", "input": "i", "output": "good"}, ("q\ni", "good")),
        ({"instruction": "q", "output": "good"}, ("q", "good")),
        ({"instruction": "q", "input": "  ", "output": "good", "history": ""}, ("q", "good")),
        ({"instruction": "q", "input": "", "output": "good", "text": "whole"}, ("q", "good")),
        ({"instruction": "q", "input": None, "output": "good", "system": "s"}, [S, U, A]),
    ],
    "belle": [
        (
            {
                "instruction": "Human:q0\nAssistant:a0\nHuman:q\nAssistant:\n",
                "input": "",
                "output": "good",
            },
            [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"}, U, A],
        )
    ],
    "sharegpt": [
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}]},
            SFT,
        )
    ],
    "messages": [
        ({"messages": [U, A]}, SFT),
        ({"prompt": "q", "prompt_id": "", "messages": [U, A]}, SFT),
    ],
    "prompt-completion": [
        ({"prompt": "q", "completion": "good"}, ("q", "good")),
        ({"question": "q", "answer": "good"}, ("q", "good")),
    ],
    "lima": [({"conversations": ["q", "good"]}, SFT)],
    "kto-sharegpt": [
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "good"},
                ],
                "kto_tag": "True",
            },
            ([U], [A], True),
        )
    ],
    "kto-messages": [({"messages": [U, A], "label": False}, ([U], [A], False))],
    "kto-alpaca": [
        ({"instruction": "q", "input": "", "output": "good", "kto_tag": True}, ("q", "good", True))
    ],
    "unpaired": [({"prompt": "q", "completion": "good", "label": True}, ("q", "good", True))],
    "mt-bench": [({"question_id": 1, "category": "x", "turns": ["q", "more"]}, "q")],
    "prompt": [({"prompt": "q"}, "q")],
    "text": [({"text": "t"}, "t")],
}
TREE = {
    "message_tree_id": "t",
    "tree_state": "ready",
    "prompt": {
        "message_id": "t",
        "text": "q",
        "role": "prompter",
        "replies": [
            {"text": "bad", "role": "assistant", "rank": 1, "replies": []},
            {"text": "gone", "role": "assistant", "rank": 2, "deleted": True, "replies": []},
            {
                "text": "good",
                "role": "assistant",
                "rank": 0,
                "replies": [
                    {
                        "text": "q2",
                        "role": "prompter",
                        "replies": [
                            {"text": "x", "role": "assistant", "rank": None, "replies": []},
                            {"text": "y", "role": "assistant", "rank": None, "replies": []},
                        ],
                    }
                ],
            },
        ],
    },
}
