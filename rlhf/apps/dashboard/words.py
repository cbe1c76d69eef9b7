"""The page's words in Chinese; what has none stays English."""

from __future__ import annotations

from collections.abc import Callable

LANGUAGES = {"en": "English", "zh": "中文"}
CHINESE: dict[str, str] = {
    # tabs, controls
    "Runs": "运行",
    "Overview": "总览",
    "Curves": "曲线",
    "Samples": "样本",
    "Alarms": "告警",
    "Report": "报告",
    "Compare": "对比",
    "Chat": "对话",
    "Stage": "阶段",
    "Page": "页",
    "PPO stage": "PPO 阶段",
    "Smoothing, points": "平滑(点数)",
    "Every metric": "全部指标",
    "the whole run": "整个运行",
    "No run is chosen.": "没有选中任何运行。",
    # stages
    "Status": "状态",
    "Steps": "步数",
    "Time": "用时",
    "Memory, GiB": "内存(GiB)",
    "Began (UTC)": "开始时间(UTC)",
    "running": "进行中",
    "waiting": "等待标注",
    "done": "已完成",
    "stopped": "已中断",
    "round {number}": "第 {number} 轮",
    "Reward model": "奖励模型",
    "Collection": "采样",
    "Evaluation": "评测",
    "Capabilities": "能力",
    "No stage has begun.": "尚无阶段开始。",
    "Alarm": "告警",
    "The tab Alarms tells what to do.": "处理办法见“告警”页。",
    "Waiting for rankings": "等待排序标注",
    "Open the annotation page": "打开标注页面",
    "To open the annotation page:": "打开标注页面的命令:",
    # curves
    "step": "步",
    "iteration": "迭代",
    "nats per token": "nat/词元",
    "nats per pair": "nat/对",
    "nats per answer": "nat/回答",
    "mean of the answers": "回答的平均值",
    "tokens": "词元",
    "share": "比例",
    "share of variance": "方差比例",
    "share of 3-grams": "3 元组比例",
    "ringing": "告警中",
    "Loss in training": "训练损失",
    "Loss, held out": "留出集损失",
    "DPO loss in training": "DPO 训练损失",
    "DPO loss, held out": "DPO 留出集损失",
    "Ranking loss in training": "排序训练损失",
    "Ranking loss, held out": "排序留出集损失",
    "Held-out pairs told right": "留出对判对的比例",
    "Learning rate": "学习率",
    "Gradient norm": "梯度范数",
    "Score of the reward model": "奖励模型打分",
    "Quality by the judge": "评判者给出的质量",
    "KL to the SFT model": "与 SFT 模型的 KL",
    "Answer length": "回答长度",
    "Entropy of the policy": "策略的熵",
    "Answers that end by themselves": "自行结束的回答",
    "What the critic explains": "价值模型的解释度",
    "Repetition in an answer": "回答内的重复",
    "No curve yet: the first comes with a stage's first step.": "还没有曲线:阶段走出第一步后出现。",
    # samples
    "answers as they come, newest first": "实时回答,最新在前",
    "answers before and after": "训练前后的回答",
    "before and after, where PPO made it better": "训练前后:变好的",
    "before and after, where PPO made it worse": "训练前后:变差的",
    "held-out responses, ranked": "留出集回答及排序",
    "before": "之前",
    "after": "之后",
    "score": "打分",
    "quality": "质量",
    "verdict": "判定",
    "win": "更好",
    "tie": "持平",
    "lose": "更差",
    "rank": "名次",
    "cut off": "被截断",
    "(an empty answer)": "(空回答)",
    "No sample yet: they come while PPO runs, and once responses are ranked.": (
        "还没有样本:PPO 运行时、回答排好序后会出现。"
    ),
    # alarms
    "Metric": "指标",
    "State": "状态",
    "Now": "当前",
    "Lowest allowed": "允许最低",
    "Highest allowed": "允许最高",
    "Rang in iterations": "告警的迭代",
    "What a crossing means, and the mend": "越界的含义与对策",
    "rang": "曾告警",
    "quiet": "正常",
    "stop": "停止",
    "rollback": "回滚",
    "Every metric that is watched is within its bounds.": "所有受监控的指标都在界内。",
    "No PPO stage has begun in the chosen runs.": "所选运行中尚无 PPO 阶段开始。",
    "The bounds are those under ppo.monitors in the run's config. "
    "Iterations that a rollback has undone are not counted.": (
        "界限取自该运行配置中的 ppo.monitors;被回滚撤销的迭代不计入。"
    ),
    "the score fell; lower the learning rates or raise ppo.critic_warmup": (
        "打分下降;降低学习率或调高 ppo.critic_warmup"
    ),
    "the actor has left the reference; raise ppo.kl or lower the learning rate": (
        "策略偏离参考模型过远;调高 ppo.kl 或降低学习率"
    ),
    "the actor has collapsed to few answers; raise ppo.kl": "策略坍缩为少数回答;调高 ppo.kl",
    "answers' length drifts; look at the reward model or set a length penalty": (
        "回答长度漂移;检查奖励模型或设置长度惩罚"
    ),
    "answers repeat themselves; look at the reward model": "回答自我重复;检查奖励模型",
    "answers are cut off; raise ppo.sampling.max_new_tokens": (
        "回答被截断;调高 ppo.sampling.max_new_tokens"
    ),
    "steps are too long; lower the learning rate": "步子过大;降低学习率",
    "the critic knows less than a constant; raise ppo.critic_warmup": (
        "价值模型不如常数;调高 ppo.critic_warmup"
    ),
    "the score follows length; look at the reward model": "打分跟随长度;检查奖励模型",
    "the judge likes the answers less than at the start; stop earlier, raise ppo.kl": (
        "评判者认为回答不如开始时;提早停止或调高 ppo.kl"
    ),
    "the score rises without the judge: the reward model is gamed; raise ppo.kl": (
        "打分上升而评判不升:奖励模型被钻空子;调高 ppo.kl"
    ),
    "engine and training disagree; set ppo.engine to plain": (
        "采样引擎与训练不一致;把 ppo.engine 设为 plain"
    ),
    "engine and training disagree on a token; set ppo.engine to plain": (
        "采样引擎与训练在某个词元上不一致;把 ppo.engine 设为 plain"
    ),
    # report, comparison
    "No report yet: the first is there once a reward model is tested.": (
        "还没有报告:奖励模型测试后出现第一份。"
    ),
    "Results": "结果",
    "First and last twentieth of the stage, of the last round.": (
        "最后一轮,阶段首尾各二十分之一的平均。"
    ),
    "Reward models on held-out pairs": "奖励模型在留出对上的表现",
    "Not tested on the same held-out pairs, which may be what differs.": (
        "测试所用的留出对不同,差异可能由此而来。"
    ),
    "What differs in the configs": "配置的差异",
    "The configs do not differ.": "配置没有差异。",
    "The chosen runs have no results yet.": "所选运行还没有结果。",
    "SFT: held-out loss, nats per token": "SFT:留出集损失(nat/词元)",
    "Reward model: held-out pairs told right": "奖励模型:留出对判对的比例",
    "PPO: score": "PPO:打分",
    "PPO: KL to the SFT model, nats per answer": "PPO:与 SFT 模型的 KL(nat/回答)",
    "PPO: answer length, tokens": "PPO:回答长度(词元)",
    "PPO against SFT: win, tie, lose": "PPO 对 SFT:胜、平、负",
    "PPO against SFT: wins minus losses": "PPO 对 SFT:胜减负",
    "held-out pairs": "留出对",
    "accuracy, %": "准确率(%)",
    **{f"grade {grade}, %": f"差距 {grade} 级(%)" for grade in range(1, 6)},
    "noise-free, %": "对无噪声标注(%)",
    "lengths balanced, %": "长度均衡后(%)",
    "less the first, points": "与第一个之差(百分点)",
    "Kendall's tau": "肯德尔 τ",
    "to": "至",
    "calibration error": "校准误差",
    "temperature": "温度",
    "correlation with length": "与长度的相关",
    # chat
    "Model": "模型",
    "And beside it": "并排的模型",
    "nobody": "不选",
    "Ask below.": "在下面提问。",
    "Question": "问题",
    "Enter asks both": "按回车同时提问",
    "Temperature (0: the most likely answer)": "温度(0:最可能的回答)",
    "Start anew": "重新开始",
    "Free the memory": "释放内存",
    "Choose a model, and ask something.": "请选择模型并输入问题。",
}


def translator(language: str) -> Callable[[str], str]:
    """English to a language of LANGUAGES."""
    return lambda text: CHINESE.get(text, text) if language == "zh" else text
