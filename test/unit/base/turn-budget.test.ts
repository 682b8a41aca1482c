import { expect } from 'chai';
import { TurnBudget } from '../../../src/base/turn-budget.ts';

describe('base/turn-budget', () => {
  /** How often the event loop turned while `work` ran. */
  async function turnsOf(work: () => Promise<unknown>): Promise<number> {
    let turns = 0;
    let immediate = setImmediate(function count() {
      turns++;
      immediate = setImmediate(count);
    });
    await work();
    clearImmediate(immediate);
    return turns;
  }

  it('is one for all who spend of it: the event loop turns when it is gone, whoever took it', async () => {
    const budget = new TurnBudget(100);
    const spender = async (): Promise<void> => {
      for (let n = 0; n < 50; n++) await budget.spend(10);
    };
    const turns = await turnsOf(() => Promise.all([spender(), spender(), spender()]));
    expect(turns).to.be.within(10, 16);
  });

  it('lets go on at once what fits', async () => {
    const budget = new TurnBudget(100);
    expect(await turnsOf(() => budget.spend(99))).to.equal(0);
  });

  it('lets something through that is larger than itself', async () => {
    const budget = new TurnBudget(100);
    expect(await turnsOf(() => budget.spend(1000))).to.be.within(1, 2);
    await budget.spend(1);
  });
});
