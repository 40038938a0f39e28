"""Recaptured loss over several texts, from what granule evaluate printed of each."""
import json


def recaptured_loss(files):
    """As `recaptured` of one report, each mean over the tokens of all."""
    parts = [json.loads(file.read_text())["recaptured"] for file in files]
    weights = [part["predicted_tokens"] for part in parts]

    def mean(values):
        return sum(w * v for w, v in zip(weights, values)) / sum(weights)

    result = {key: mean([part[key] for part in parts])
              for key in ("cross_entropy_clean", "cross_entropy_mean")}
    result["replaced_tokens"] = sum(part["replaced_tokens"] for part in parts)
    clean, ablated = result["cross_entropy_clean"], result["cross_entropy_mean"]
    result["rows"] = []
    for rows in zip(*[part["rows"] for part in parts]):
        spliced = mean([row["cross_entropy"] for row in rows])
        result["rows"].append({
            "granularity": rows[0]["granularity"], "sparsity": rows[0]["sparsity"],
            "l0": mean([row["l0"] for row in rows]), "cross_entropy": spliced,
            "cross_entropy_ratio": clean / spliced, "cross_entropy_excess": spliced - clean,
            "loss_recovered_against_mean": 1 - (spliced - clean) / (ablated - clean)})
    return result
