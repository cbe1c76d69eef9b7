// The ranking that is being made: no drawing here. Places are those shown, tiers are sets of places that tie.

class Ranking {
  // ranks: a number or null a place. grades: those of the gaps of a complete ranking, best gap first.
  constructor(count, ranks, grades) {
    this.ranks = ranks ? [...ranks] : Array(count).fill(null);
    this.grades = new Map();
    grades.forEach((grade, index) => this.grades.set(this.gaps()[index], grade));
  }

  get complete() {
    return !this.ranks.includes(null);
  }

  get tiers() {
    const numbers = [...new Set(this.ranks)].filter((rank) => rank !== null).sort((a, b) => a - b);
    return numbers.map((rank) => this.ranks.flatMap((own, place) => (own === rank ? [place] : [])));
  }

  // A gap is named after the tiers beside it, so that a grade stays as long as both do.
  gaps() {
    const tiers = this.tiers;
    return tiers.slice(1).map((tier, index) => `${tiers[index]}>${tier}`);
  }

  get gradeList() {
    return this.gaps().map((gap) => this.grades.get(gap) ?? null);
  }

  get ungraded() {
    return this.complete ? this.gradeList.filter((grade) => grade === null).length : 0;
  }

  rank(place, rank) {
    this.ranks[place] = rank;
    if (this.complete) this.#write(this.tiers);
  }

  // Half a step: out of a tie, or into the tie with the neighbour.
  nudge(place, step) {
    if (this.ranks[place] === null) return;
    const tiers = this.tiers;
    const at = tiers.findIndex((tier) => tier.includes(place));
    if (tiers[at].length > 1) this.move(place, step < 0 ? at : at + 1, false);
    else if (tiers[at + step]) this.move(place, at + step, true);
  }

  // Into the tier at an index (tie), or into a new one before it.
  move(place, index, tie) {
    const tiers = this.tiers.map((tier) => tier.filter((other) => other !== place));
    if (tie) tiers[index].push(place);
    else tiers.splice(index, 0, [place]);
    this.#write(tiers.filter((tier) => tier.length));
  }

  #write(tiers) {
    tiers.forEach((tier, index) => tier.forEach((place) => (this.ranks[place] = index + 1)));
  }
}
