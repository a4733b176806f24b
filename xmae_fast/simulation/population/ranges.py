"""The ranges from which the simulated population draws: heart, circulation, PPG and ECG, each with its source.

Where no source gives a range, it is the one in which features of cleaned simulated PPG overlap those of patients.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]
"""The lowest and the highest value; a value is drawn uniformly between them, or uniformly in its logarithm where the
field says so."""


@dataclass(frozen=True)
class RhythmCfg:
    """When the heart beats.

    Args:
        sinus_rate: mean and standard deviation of the sinus rate over segments, in beats per minute, cut to 42 to 125.
            Patients in bed are a little faster than the 60 to 80 of healthy adults.
        hf: amplitude of the respiratory sinus arrhythmia relative to the RR interval at age 20 (log-uniform). It falls
            by `ageing` per year. ECGSYN (McSharry et al., IEEE TBME 50:289, 2003) has LF and HF peaks of equal power;
            SDNN of minutes is 20 to 60 ms in adults (Task Force, Circulation 93:1043, 1996).
        lf: amplitude of the Mayer wave at 0.07 to 0.13 Hz, likewise (Julien, Cardiovasc Res 70:12, 2006).
        vlf: amplitude of the two waves at 0.01 to 0.05 Hz that stand for the 1/f part, likewise.
        rr_jitter: standard deviation from beat to beat, relative to the interval (log-uniform).
        ageing: decrease of the logarithm of the three amplitudes per year.
        breathing_rate: breaths per minute; 12 to 20 at rest in adults (Charlton et al., IEEE Rev Biomed Eng 11:2,
            2018, whose data sets span 5 to 33).
        pvc_coupling: the interval before a premature ventricular beat, relative to the sinus interval; about 400 to
            700 ms in textbooks (Goldberger's Clinical Electrocardiography).
        pac_coupling: the same for a premature atrial beat.
        pac_pause: the interval after a premature atrial beat, relative to the sinus interval: the sinus node is reset.
        interpolated: the share of segments with ventricular beats that have no compensatory pause. In the others the
            sinus beat after the pause keeps its time (full compensatory pause).
        extra_ectopics: the probability that any other beat is premature too (its square root is uniform).
        pattern: shares of the patterns of premature beats: isolated, bigeminy, trigeminy, couplets, runs of 3 to 5.
        vt_rate: beats per minute; above 100 by definition, usually 110 to 220 (ESC guidelines on ventricular
            arrhythmias).
        svt_rate: beats per minute; 100 to 220; atrial tachycardias are at the lower end.
        vt_jitter: standard deviation of VT intervals, relative (log-uniform).
        svt_jitter: the same for SVT.
        vt_beats: beats of a run of VT or of AF (log-uniform); 3 and more by definition.
        svt_beats: the same for SVT.
        second_run: the probability that another run follows after a few sinus beats.
        af_rate: mean ventricular rate in beats per minute.
        af_spread: standard deviation of the logarithm of intervals in AF; RR intervals are uncorrelated and their
            coefficient of variation is 0.15 to 0.3 (Petrenas et al., Comput Biol Med 91:287, 2017).
        af_paroxysm: the share of AF segments in which AF starts or ends.
    """

    sinus_rate: Range = (76.0, 12.0)
    hf: Range = (0.004, 0.05)
    lf: Range = (0.004, 0.03)
    vlf: Range = (0.003, 0.03)
    rr_jitter: Range = (0.002, 0.01)
    ageing: float = 0.015
    breathing_rate: Range = (9.0, 26.0)
    pvc_coupling: Range = (0.42, 0.8)
    pac_coupling: Range = (0.45, 0.82)
    pac_pause: Range = (1.0, 1.35)
    interpolated: float = 0.05
    extra_ectopics: Range = (0.0, 0.5)
    pattern: tuple[float, ...] = (0.62, 0.1, 0.1, 0.1, 0.08)
    vt_rate: Range = (108.0, 205.0)
    svt_rate: Range = (95.0, 175.0)
    vt_jitter: Range = (0.004, 0.08)
    svt_jitter: Range = (0.003, 0.03)
    vt_beats: Range = (8.0, 800.0)
    svt_beats: Range = (10.0, 1000.0)
    second_run: float = 0.4
    af_rate: Range = (60.0, 135.0)
    af_spread: Range = (0.1, 0.28)
    af_paroxysm: float = 0.08


@dataclass(frozen=True)
class CirculationCfg:
    """How much blood each beat ejects, and when its pulse arrives.

    Args:
        filling_time: time constant of the filling of the ventricle, in s: early filling is over within 0.15 to 0.25 s
            of the opening of the mitral valve.
        valve: the pressure the ventricle must overcome, relative to that of a normal beat. A beat that is below it has
            no pulse: the pulse deficit of AF and of early beats.
        potentiation: exponent of (interval before / interval before that) in the contractility: the beat after a pause
            is stronger. In AF the pulse follows the preceding interval and runs against the one before it (Solosenko et
            al., Comput Biol Med 81:130, 2017, model the PPG of AF so).
        pvc_strength: strength of a ventricular beat relative to a sinus beat of the same filling: it lacks the atrial
            contribution (15 to 30 %) and the synchrony of the ventricles.
        vt_strength: the same in ventricular tachycardia (log-uniform); above 1 where the circulation has adapted.
        svt_strength: the same in supraventricular tachycardia.
        atrial_kick: the gain of a beat of ventricular tachycardia that a dissociated P wave precedes by 0.16 s.
        beat_spread: standard deviation of the logarithm of the strength from beat to beat (log-uniform).
        pep: pre-ejection period in s at 70 beats per minute; Weissler et al., Circulation 37:149, 1968, give
            131 - 0.4 * rate ms in adults. It is longer before weak beats.
        ptt: pulse transit time to the finger in s at age 25 and 90 mmHg of mean pressure. It falls with age and
            pressure (Charlton et al., Am J Physiol 317:H1062, 2019; Mukkamala et al., IEEE TBME 62:1879, 2015: about
            1 ms per mmHg).
        pressure: mean arterial pressure in mmHg.
        age: years.
        monitor_delay: s by which the recorder shifts the PPG against the ECG, in half of the subjects; monitors are
            known for delays of 0 to 250 ms (see also `SimulationCfg.pat_quantiles`).
    """

    filling_time: Range = (0.1, 0.32)
    valve: Range = (0.03, 0.3)
    potentiation: Range = (0.0, 0.4)
    pvc_strength: Range = (0.2, 1.1)
    vt_strength: Range = (0.6, 1.8)
    svt_strength: Range = (0.7, 1.3)
    atrial_kick: Range = (0.0, 0.45)
    beat_spread: Range = (0.01, 0.06)
    pep: Range = (0.08, 0.125)
    ptt: Range = (0.13, 0.24)
    pressure: Range = (65.0, 125.0)
    age: Range = (20.0, 88.0)
    monitor_delay: Range = (0.0, 0.2)


@dataclass(frozen=True)
class PpgCfg:
    """The pulse at the sensor, and what the sensor makes of it.

    Amplitudes are relative to the pulse of a sinus beat.

    Args:
        site: shares of finger, wrist and ear.
        rise: standard deviation of the first inflow of a pulse in s; with the late wave it makes a crest time of 0.1 to
            0.25 s, which grows with age (Allen, Physiol Meas 28:R1, 2007).
        runoff: time constant in s with which the volume falls in diastole (log-uniform): a Windkessel (Westerhof et
            al., Med Biol Eng Comput 47:131, 2009, give 1 to 2 s for the pressure of adults). The PPG of patients falls
            more nearly along a straight line until the next foot, so longer times are drawn as well.
        early_wave: height of the bump at the systolic peak that the forward wave makes, in young arteries.
        late_wave: the inflow later in systole and of reflected waves, relative to the first; larger in stiff arteries.
        late_at: s from the first inflow to the late one.
        late_width: its standard deviation in s.
        notch: height of the dicrotic wave, which age takes away (Dawber et al., Angiology 24:244, 1973; Charlton 2019).
        notch_at: s from the foot to the dicrotic wave at 75 beats per minute; it follows the square root of the
            interval.
        breathing: amplitudes of the respiratory modulation of baseline and of pulse height (log-uniform) (Charlton
            2018).
        vasomotion: amplitude of slow modulations of the pulse height at 0.02 to 0.12 Hz (Allen 2007).
        wander: amplitude of baseline noise with a 1/f^2 power spectrum (log-uniform).
        noise: standard deviation of white noise (log-uniform).
        low_pass: cut-off in Hz of the sensor; pulse oximeters smooth at 5 to 20 Hz, wearables sample at 25 to 100 Hz.
        high_pass: cut-off in Hz of a first-order AC coupling that half of the sensors have (log-uniform).
        levels: steps of the quantisation over the range of the segment (log-uniform); 5 to 12 bits.
        motion: probability of one burst of motion in a segment, and of further ones.
        motion_size: amplitude of a burst (log-uniform), at 0.5 to 6 Hz.
        contact_loss: probability that the contact is lost or changes for a while.
        saturation: probability that the top or the bottom of the range is cut off.
        inverted: probability that the sensor delivers transmitted light, with pulses downwards. It is 0 because the
            preparation of real recordings turns them.
        resampled: share of the subjects whose cleaned PPG was brought to the sampling frequency by a Fourier
            transform, which rings at the ends of a segment; the others have smooth ends.
    """

    site: tuple[float, ...] = (0.65, 0.2, 0.15)
    rise: Range = (0.01, 0.036)
    runoff: Range = (1.8, 12.0)
    early_wave: Range = (0.0, 0.25)
    late_wave: Range = (0.6, 1.7)
    late_at: Range = (0.045, 0.17)
    late_width: Range = (0.032, 0.095)
    notch: Range = (0.0, 0.14)
    notch_at: Range = (0.35, 0.48)
    breathing: Range = (0.003, 0.17)
    vasomotion: Range = (0.002, 0.05)
    wander: Range = (0.004, 0.12)
    noise: Range = (0.002, 0.018)
    low_pass: Range = (8.0, 30.0)
    high_pass: Range = (0.012, 0.2)
    levels: Range = (32.0, 4096.0)
    motion: Range = (0.08, 0.3)
    motion_size: Range = (0.05, 3.0)
    contact_loss: float = 0.01
    saturation: float = 0.02
    inverted: float = 0.0
    resampled: float = 0.5


@dataclass(frozen=True)
class EcgCfg:
    """The waves of the ECG, and what the monitor makes of them.

    Heights are in mV. Waves are Gaussians as in ECGSYN (McSharry 2003), projected on the lead.

    Args:
        leads: angles of the leads in the frontal plane in degrees; one is drawn for each subject. I, II, III, aVF, aVL
            and aVR by Einthoven and Goldberger; II counts three times, because monitors show it.
        axis: mean and standard deviation of the electrical axis in degrees; normal is -30 to 90.
        r_height: of the main vector.
        p_height: of the P wave, below 0.25.
        t_height: of the T wave; a fifth of the subjects have flat or inverted T waves.
        qrs_width: s, as the standard deviation of the R wave; QRS of 70 to 110 ms.
        block: share of the subjects with a bundle branch block, QRS of 120 to 170 ms (Surawicz et al., Circulation
            119:e235, 2009).
        pr: s from the P wave to the R wave, 0.12 to 0.2 to the start of QRS.
        qt: s from R to the peak of T at RR = 1 s; it follows the cube root of the interval (Fridericia, 1920).
        f_waves: amplitude of fibrillatory waves (log-uniform), at 4 to 9 Hz (Petrutiu et al., Europace 9:466, 2007).
        pvc_height: of the main wave of ventricular beats (log-uniform).
        pvc_width: s, standard deviation of that wave; QRS of 120 to 200 ms.
        wander: baseline noise with a 1/f^2 power spectrum (log-uniform).
        noise: white noise: electrodes and muscle (log-uniform).
        mains: amplitude of 50 or 60 Hz after the recorder's filter (log-uniform).
        high_pass: cut-offs of monitors in Hz, of which one is drawn: 0.05 diagnostic, 0.5 and 0.67 monitoring
            (Kligfield et al., Circulation 115:1306, 2007).
        low_pass: cut-off in Hz.
        motion: probability of a burst of electrode motion.
        inverted: probability of exchanged electrodes.
    """

    leads: tuple[float, ...] = (0.0, 60.0, 60.0, 60.0, 120.0, 90.0, -30.0, -150.0)
    axis: Range = (45.0, 35.0)
    r_height: Range = (0.5, 1.8)
    p_height: Range = (0.04, 0.2)
    t_height: Range = (0.05, 0.5)
    qrs_width: Range = (0.009, 0.014)
    block: float = 0.1
    pr: Range = (0.13, 0.2)
    qt: Range = (0.25, 0.31)
    f_waves: Range = (0.02, 0.15)
    pvc_height: Range = (0.5, 2.5)
    pvc_width: Range = (0.022, 0.042)
    wander: Range = (0.01, 0.4)
    noise: Range = (0.003, 0.06)
    mains: Range = (0.001, 0.05)
    high_pass: tuple[float, ...] = (0.05, 0.05, 0.5, 0.67)
    low_pass: Range = (18.0, 45.0)
    motion: float = 0.08
    inverted: float = 0.03
